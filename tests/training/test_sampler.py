"""The rows that a step draws: epochs, weights, curricula, and independence of processes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from lame_runtime.errors import UsageError
from lame_training.data import DataSet
from lame_training.data.sampler import Sampler
from lame_training.distributed.processes import ProcessGroup
from lame_training.recipes.catalog import find_recipe

TASKS = (DataSet("a", "none", 3.0), DataSet("b", "none", 1.0))
# Four sub-batches of eight rows per step, and a data set that is smaller than one of them.
STAGE = dataclasses.replace(
    find_recipe("digits-tiny").stages[1], steps=200, batch_size=32, sub_batch=8, tasks=TASKS
)
SIZES = {"a": 50, "b": 5}


def test_every_row_comes_once_before_any_comes_again() -> None:
    """An epoch of 50 rows has six sub-batches of eight; the two rows left over wait."""
    sampler = Sampler(STAGE, SIZES, (0, 0))
    sub_batches = [rows for step in range(20) for name, rows in sampler.draw(step) if name == "a"]
    for epoch in range(len(sub_batches) // 6):
        counts = Counter(np.concatenate(sub_batches[6 * epoch : 6 * epoch + 6]).tolist())
        assert len(counts) == 48
        assert set(counts.values()) == {1}


def test_epochs_and_seeds_have_different_orders() -> None:
    """The seventh sub-batch of a data set is the first one of its second epoch."""
    sampler = Sampler(STAGE, SIZES, (0, 0))
    sub_batches = [
        rows.tolist() for step in range(20) for name, rows in sampler.draw(step) if name == "a"
    ]
    assert sub_batches[0] != sub_batches[6]
    assert Sampler(STAGE, SIZES, (1, 0)).draw(0)[0][1].tolist() != sampler.draw(0)[0][1].tolist()


def test_a_step_is_the_same_whether_or_not_those_before_were_drawn() -> None:
    """A run can therefore resume in the middle of an epoch."""
    # One sampler draws all steps; the other begins with step 30.
    whole, resumed = Sampler(STAGE, SIZES, (0, 1)), Sampler(STAGE, SIZES, (0, 1))
    for step in range(30):
        whole.draw(step)
    pairs = zip(whole.draw(30), resumed.draw(30), strict=True)
    for (name, rows), (resumed_name, resumed_rows) in pairs:
        assert name == resumed_name
        assert rows.tolist() == resumed_rows.tolist()


def test_data_sets_are_drawn_by_weight_and_small_ones_give_all_they_have() -> None:
    """The weights are three to one, and a sub-batch of eight gets the five rows there are."""
    sampler = Sampler(STAGE, SIZES, (0, 0))
    drawn = [(name, len(rows)) for step in range(200) for name, rows in sampler.draw(step)]
    names = Counter(name for name, _ in drawn)
    # The expected share is 0.75; its standard deviation over 800 draws is 0.015.
    assert 0.7 < names["a"] / len(drawn) < 0.8
    assert {size for name, size in drawn if name == "b"} == {5}


def test_without_l_nce_only_data_sets_that_decode_a_text_are_drawn() -> None:
    """A sub-batch of another one would train nothing, and a process may get no more than it."""
    # The weight makes it all but certain that "a" would be drawn, were it not left out.
    tasks = (DataSet("a", "none", 9.0), DataSet("b", "query", 1.0))
    sampler = Sampler(dataclasses.replace(STAGE, nce_weight=0.0, tasks=tasks), SIZES, (0, 0))
    assert {name for step in range(50) for name, _ in sampler.draw(step)} == {"b"}


def test_a_data_set_joins_in_after_its_share_of_the_stage() -> None:
    """A curriculum begins with the easy data sets."""
    late = dataclasses.replace(
        STAGE, tasks=(DataSet("a", "none"), DataSet("b", "none", begins=0.5))
    )
    sampler = Sampler(late, SIZES, (0, 0))
    assert {name for step in range(100) for name, _ in sampler.draw(step)} == {"a"}
    assert {name for step in range(100, 110) for name, _ in sampler.draw(step)} == {"a", "b"}


def test_rates_rise_and_fall_on_a_cosine() -> None:
    """They rise linearly over the warm-up and fall on a cosine to a tenth of the peak."""
    stage = dataclasses.replace(STAGE, steps=110, warmup=10 / 110)
    factors = [stage.rate_factor(step) for step in range(stage.steps)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    # Half-way down, the factor is half-way between 1 and 0.1.
    assert factors[60] == pytest.approx(0.55)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.1 < factors[-1] < 0.101


def test_processes_take_whole_sub_batches() -> None:
    """Each sub-batch goes to one process, and a number that does not divide is refused."""
    # Two processes in one: the number and the rank are all that sharing depends on.
    drawn = Sampler(STAGE, SIZES, (0, 0)).draw(0)
    world = ProcessGroup("cpu")
    world.size = 2
    shares = []
    for world.rank in range(2):
        shares += world.shard_list(drawn, "sub-batches")
    assert [(name, rows.tolist()) for name, rows in shares] == [
        (name, rows.tolist()) for name, rows in drawn
    ]
    with pytest.raises(UsageError, match="3 sub-batches cannot be shared by 2 processes"):
        world.shard_list(drawn[:3], "sub-batches")
