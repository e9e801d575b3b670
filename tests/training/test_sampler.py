"""Which rows a step draws: epochs, weights, curricula, and the same whoever asks."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from lame_runtime.errors import InputError
from lame_training.data import DataSet
from lame_training.recipes import find_recipe
from lame_training.sampler import Sampler
from lame_training.world import World

TASKS = (DataSet("a", "none", 3.0), DataSet("b", "none", 1.0))
STAGE = dataclasses.replace(find_recipe("digits-tiny").stages[1], steps=200, batch_size=32, sub_batch=8, tasks=TASKS)
SIZES = {"a": 50, "b": 5}


def test_every_row_comes_once_before_any_comes_again() -> None:
    """Save the two that do not fill an epoch's last sub-batch."""
    sampler = Sampler(STAGE, SIZES, (0, 0))
    drawn = [rows for step in range(20) for name, rows in sampler.draw(step) if name == "a"]
    for epoch in range(len(drawn) // 6):
        counts = Counter(np.concatenate(drawn[6 * epoch : 6 * epoch + 6]).tolist())
        assert len(counts) == 48
        assert set(counts.values()) == {1}


def test_epochs_have_orders_of_their_own() -> None:
    """As have seeds."""
    sampler = Sampler(STAGE, SIZES, (0, 0))
    drawn = [rows.tolist() for step in range(20) for name, rows in sampler.draw(step) if name == "a"]
    assert drawn[0] != drawn[6]
    assert Sampler(STAGE, SIZES, (1, 0)).draw(0)[0][1].tolist() != sampler.draw(0)[0][1].tolist()


def test_a_step_is_the_same_whether_or_not_those_before_were_drawn() -> None:
    """So a run resumes in the middle of an epoch."""
    one, other = Sampler(STAGE, SIZES, (0, 1)), Sampler(STAGE, SIZES, (0, 1))
    for step in range(30):
        one.draw(step)
    for (name, rows), (other_name, other_rows) in zip(one.draw(30), other.draw(30), strict=True):
        assert name == other_name
        assert rows.tolist() == other_rows.tolist()


def test_data_sets_are_drawn_by_weight_and_small_ones_give_all_they_have() -> None:
    """Three to one; five rows where eight are asked for."""
    sampler = Sampler(STAGE, SIZES, (0, 0))
    drawn = [(name, len(rows)) for step in range(200) for name, rows in sampler.draw(step)]
    names = Counter(name for name, _ in drawn)
    assert 0.7 < names["a"] / len(drawn) < 0.8
    assert {size for name, size in drawn if name == "b"} == {5}


def test_without_l_nce_only_data_sets_that_decode_a_text_are_drawn() -> None:
    """A sub-batch of another would train nothing, and be all that one of several processes has."""
    tasks = (DataSet("a", "none", 9.0), DataSet("b", "query", 1.0))
    sampler = Sampler(dataclasses.replace(STAGE, nce_weight=0.0, tasks=tasks), SIZES, (0, 0))
    assert {name for step in range(50) for name, _ in sampler.draw(step)} == {"b"}


def test_a_data_set_joins_in_when_its_time_has_come() -> None:
    """A curriculum."""
    late = dataclasses.replace(STAGE, tasks=(DataSet("a", "none"), DataSet("b", "none", begins=0.5)))
    sampler = Sampler(late, SIZES, (0, 0))
    assert {name for step in range(100) for name, _ in sampler.draw(step)} == {"a"}
    assert {name for step in range(100, 110) for name, _ in sampler.draw(step)} == {"a", "b"}


def test_rates_rise_and_fall_on_a_cosine() -> None:
    """Linearly over the warm-up to the peak; a tenth of it at the end, half-way between in the middle of the fall."""
    stage = dataclasses.replace(STAGE, steps=110, warmup=10 / 110)
    factors = [stage.rate_factor(step) for step in range(stage.steps)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.55)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.1 < factors[-1] < 0.101


def test_processes_take_whole_sub_batches() -> None:
    """Sub-batches keep their rows together, and every one goes to one process; what does not divide is refused."""
    drawn = Sampler(STAGE, SIZES, (0, 0)).draw(0)
    world = World("cpu")
    world.size = 2
    found = []
    for world.rank in range(2):
        found += world.share(drawn, "sub-batches")
    assert [(name, rows.tolist()) for name, rows in found] == [(name, rows.tolist()) for name, rows in drawn]
    with pytest.raises(InputError, match="3 sub-batches cannot be shared by 2 processes"):
        world.share(drawn[:3], "sub-batches")
