"""Arguments as users have them: NumPy's numbers count, values of other types do not."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import lame_training
import numpy as np
import pytest
from lame_runtime.errors import UsageError
from lame_training.api import EvaluateOptions
from lame_training.recipes import recipe
from lame_training.recipes.catalog import find_recipe
from lame_training.run import train_options
from lame_training.run.train_options import TrainOptions


def test_numbers_of_numpy_are_numbers() -> None:
    """Integers of any type and 0-dimensional arrays become Python's own, which JSON can hold."""
    options = TrainOptions(
        steps=np.int64(3),  # type: ignore[arg-type]
        seed=np.array(7),  # type: ignore[arg-type]
        matryoshka=np.array([32, 16]),  # type: ignore[arg-type]
        keep=np.uint8(2),  # type: ignore[arg-type]
        resume=np.False_,  # type: ignore[arg-type]
    )
    assert (options.steps, options.seed, options.matryoshka, options.keep) == (3, 7, (32, 16), 2)
    applied = options.applied_to(find_recipe("digits-tiny"))
    applied = dataclasses.replace(
        applied,
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        clip_norm=Fraction(1, 2),  # type: ignore[arg-type]
        save_every=np.int32(5),  # type: ignore[arg-type]
    )
    assert json.loads(json.dumps(dataclasses.asdict(applied)))["temperature"] == 0.5
    settings = EvaluateOptions(batch_size=np.int64(4), max_pixels=np.int64(9999))  # type: ignore[arg-type]
    json.dumps([settings.batch_size, settings.max_pixels])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("steps", value)
            for value in (True, 1.0, "3", np.nan, 10**400, [3], np.array([3]), b"3")
        ),
        *(("seed", value) for value in (True, -1, np.True_, 0.5, "x" * 5000)),
        *(("matryoshka", value) for value in (3, "16", [True], [1.5], {16: 1})),
        *(("resume", value) for value in (1, "yes", None)),
        *(("backbone", value) for value in (3, b"x", "a\0b", "")),
        *(("device", value) for value in ("cuda", 1, ["cpu"], np.array(["cpu", "cpu"]))),
    ],
)
def test_what_is_no_such_argument_is_refused_at_the_call(name: str, value: Any) -> None:
    """The line names the argument and repeats at most 80 characters of the value."""
    with pytest.raises(UsageError, match=f"^`{name}` is ") as caught:
        TrainOptions(**{name: value})
    assert len(str(caught.value)) < 250


def test_without_their_checks_wrong_numbers_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a bool is a number of steps, and no temperature can be too low."""
    monkeypatch.setattr(train_options, "integer", lambda _name, value, *_: value)
    monkeypatch.setattr(recipe, "number", lambda _name, value, *_: value)
    assert TrainOptions(steps=True).steps is True
    changed = dataclasses.replace(find_recipe("digits-tiny"), temperature=-1)
    assert changed.temperature == -1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 0}, "temperature"),
        ({"clip_norm": float("inf")}, "clip_norm"),
        ({"dim": True}, "dim"),
        ({"n_reason": -1}, "n_reason"),
        ({"false_negative_margin": "0.1"}, "false_negative_margin"),
    ],
)
def test_a_recipe_has_numbers_in_their_range(changes: dict[str, Any], name: str) -> None:
    """A recipe that would fail hours into a run is refused when it is made."""
    with pytest.raises(UsageError, match=f"`{name}` is "):
        dataclasses.replace(find_recipe("digits-tiny"), **changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"steps": 1.5}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"warmup": 2}, "warmup"),
        ({"nce_weight": float("nan")}, "nce_weight"),
        ({"rates": {"head": float("nan")}}, "rates"),
    ],
)
def test_a_stage_has_numbers_in_their_range(changes: dict[str, Any], name: str) -> None:
    """The same holds for its stages."""
    with pytest.raises(UsageError, match=f"`{name}` is "):
        dataclasses.replace(find_recipe("digits-tiny").stages[0], **changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("batch_size", value) for value in (0, True, 2.0, None, "8")),
        *(("max_pixels", value) for value in (0, True, 1e6)),
        *(("tasks", value) for value in ("sum2", 3, [3], {"sum2": 1})),
        *(("split", value) for value in ("test", None, ["eval"])),
        *(("output", value) for value in (3, b"x", "")),
        ("name", 3),
    ],
)
def test_options_of_an_evaluation_are_refused_at_the_call(name: str, value: Any) -> None:
    """Before a model is opened or a folder is made."""
    with pytest.raises(UsageError, match=f"^`{name}` is "):
        lame_training.evaluate("nowhere", "digits", "nowhere", **{name: value})


def test_folders_and_recipes_of_other_types_are_refused(tmp_path: Path) -> None:
    """Bytes and numbers are no paths, a list is no recipe."""
    for arguments in (
        ("digits-tiny", 3, tmp_path / "x"),
        ("digits-tiny", None, None),
        (["digits-tiny"], None, tmp_path / "x"),
    ):
        with pytest.raises(UsageError):
            lame_training.train(*arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="`folder` is"):
        lame_training.load_checkpoint(b"x")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
