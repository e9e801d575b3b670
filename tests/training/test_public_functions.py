"""The public functions of `lame_training`, and the grammar of `lame-train`."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lame_training
import numpy as np
import pytest
from lame_runtime import Encoder
from lame_runtime.errors import BundleError, UsageError
from lame_training.__main__ import COMMANDS, main
from lame_training.commands.train_command import RECIPE_NAMES
from lame_training.recipes.catalog import RECIPES
from lame_training.run.progress import read_losses
from lame_training.run.train_options import TrainKeywords, TrainOptions

PUBLIC = ["Recipe", "evaluate", "find_recipe", "load_checkpoint", "train"]
COMMAND_NAMES = (
    "run",
    "evaluate",
    "probe",
    "paradigms",
    "ablation",
    "digits",
    "fixtures",
    "sample-backbone",
    "import",
)


def test_the_public_surface_is_pinned() -> None:
    """The names, their signatures, and a docstring with an example for each of them."""
    assert lame_training.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(lame_training))
    signatures = {name: str(inspect.signature(getattr(lame_training, name))) for name in PUBLIC[1:]}
    assert signatures == {
        "train": "(recipe: 'str | Recipe', data: 'FolderLike | None', output: 'FolderLike', "
        "**options: 'Unpack[TrainKeywords]') -> 'None'",
        "load_checkpoint": "(folder: 'FolderLike') -> 'Encoder'",
        "evaluate": "(model: 'FolderLike', suite: 'str', data: 'FolderLike', "
        "**options: 'Unpack[EvaluateKeywords]') -> 'Evaluation'",
        "find_recipe": "(name: 'str') -> 'Recipe'",
    }
    for name in PUBLIC:
        assert "Example:" in inspect.getdoc(getattr(lame_training, name))  # type: ignore[operator]
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        lame_training.trian  # noqa: B018


def test_options_and_keywords_are_the_same() -> None:
    """The typed keywords of a function are the fields of its options."""
    from lame_training.api import EvaluateKeywords, EvaluateOptions

    for keywords, options in ((TrainKeywords, TrainOptions), (EvaluateKeywords, EvaluateOptions)):
        fields = {field.name: field.type for field in options.__dataclass_fields__.values()}  # type: ignore[attr-defined]
        assert list(fields) == list(keywords.__annotations__)
        declared = {name: kind.__forward_arg__ for name, kind in keywords.__annotations__.items()}
        assert declared == fields


def test_public_names_are_imported_when_they_are_used() -> None:
    """`import lame_training` does not import PyTorch; using a name does."""
    code = (
        "import sys, lame_training; print('torch' in sys.modules); "
        "lame_training.find_recipe; print('torch' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == ["False", "True"]


def test_a_script_trains_loads_and_evaluates(data: Path, tmp_path: Path) -> None:
    """The three functions, on a copy of the digits so that the caches are the test's own."""
    copy, out = Path(shutil.copytree(data, tmp_path / "data")), tmp_path / "run"
    recipe = lame_training.find_recipe("digits-tiny")
    assert isinstance(recipe, lame_training.Recipe)
    lame_training.train(recipe, str(copy), str(out), steps=7, progress=False)
    lame_training.train("digits-tiny", copy, out, steps=8, resume=True, progress=False)
    assert len(list(read_losses(out / "losses.csv"))) == 8
    with lame_training.load_checkpoint(str(out)) as encoder:
        assert isinstance(encoder, Encoder)
        vectors = encoder.encode_query(["seven", "eight"])
    assert vectors.shape == (2, recipe.dim)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    evaluation = lame_training.evaluate(
        out, "digits", copy, tasks=["digit", "sum2"], output=tmp_path / "scores", name="ours"
    )
    assert set(evaluation.scores) == {"digit", "sum2"}
    assert evaluation.failed == {}
    report = json.loads((tmp_path / "scores/report.json").read_text())
    assert report == evaluation.report
    assert report["metadata"]["model_name"] == "ours"
    assert report["summary"]["tasks"] == evaluation.scores


def test_the_digits_are_written_if_there_is_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go into the output folder, and a folder that holds another run is left alone."""
    from lame_training.data.digits import TINY, write_digits

    monkeypatch.setattr(
        "lame_training.run.train.write_digits", lambda folder: write_digits(folder, TINY)
    )
    out = tmp_path / "run"
    lame_training.train("digits-tiny", None, out, steps=1, progress=False)
    assert (out / "data/train/sum2.parquet").is_file()
    shutil.rmtree(out / "data")
    with pytest.raises(UsageError, match="another recipe"):
        lame_training.train("digits-k0", None, out, resume=True)
    assert not (out / "data").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "`steps` is -1: use 0 or more"),
        ({"steps": True}, "`steps` is True: use a whole number, 0 or more"),
        ({"threads": -1}, "`threads` is -1: use 0 or more"),
        ({"keep": 0}, "`keep` is 0: use 1 or more"),
        ({"save_every": 0}, "`save_every` is 0: use 1 or more"),
        ({"device": "cuda"}, "`device` is 'cuda': use 'cpu'"),
        ({"seed": -1}, "`seed` is -1: use 0 or more"),
        ({"matryoshka": [64]}, "`matryoshka` is 64: use lengths from 1 to 63"),
    ],
)
def test_options_out_of_range_are_refused(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    """The library's messages name arguments, and nothing is written."""
    with pytest.raises(UsageError, match=re.escape(message)):
        lame_training.train("digits-tiny", None, tmp_path / "x", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_wrong_use_of_the_other_functions(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """An unknown suite or recipe, a backend for a checkpoint, and a folder without checkpoint."""
    with pytest.raises(UsageError, match="`suite` is 'nonesuch': use one of digits, mmeb-v2, mrmr"):
        lame_training.evaluate(checkpoint, "nonesuch", data)
    with pytest.raises(UsageError, match=r"`backend` is 'tensorrt'.* leave it out"):
        lame_training.evaluate(checkpoint, "digits", data, backend="tensorrt")
    with pytest.raises(UsageError, match="unknown recipe 'nonesuch': there are digits, "):
        lame_training.train("nonesuch", data, tmp_path / "x")
    with pytest.raises(BundleError, match="not a complete checkpoint"):
        lame_training.load_checkpoint(tmp_path)


def test_the_help_names_every_recipe() -> None:
    """The command's list is its own, so that declaring it does not import PyTorch."""
    published = [name for name in RECIPE_NAMES if name.startswith("lame-")]
    assert [*RECIPE_NAMES, *(f"{name}-lora" for name in published)] == list(RECIPES)


@pytest.mark.parametrize("command", COMMAND_NAMES)
def test_the_help_of_a_command_ends_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every option has a help text, and outputs have one spelling."""
    assert len(COMMAND_NAMES) == len(COMMANDS)
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    assert not re.search(r"--out\b(?!put)", output)
    *_, example = output.split("example:\n")
    assert f"lame-train {command} " in example
    assert all(line.startswith("  ") for line in example.splitlines())
    lines = output.splitlines()
    for line, following in itertools.pairwise(lines):
        if line.startswith("  -"):
            # a help text begins in the option's line, or indented in the next
            assert re.fullmatch(r"  -.*\S {2,}\S.*", line) or following.startswith(" " * 10), line


def test_the_old_spelling_of_the_output_still_works(data: Path, tmp_path: Path) -> None:
    """`--out` is accepted, and `-o` is short for `--output`."""
    for number, spelling in enumerate(("--out", "-o")):
        out = tmp_path / str(number)
        command = ["run", "digits-tiny", "--data", str(data), spelling, str(out), "--steps", "0"]
        assert main(command) == 0
        assert (out / "config.json").is_file()


def test_a_sample_backbone_is_written_and_never_over_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder loads as the backbone of a recipe."""
    folder = tmp_path / "backbone"
    assert main(["sample-backbone", "qwen2_vl", str(folder)]) == 0
    assert main(["sample-backbone", "qwen2_vl", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["sample-backbone", "qwen2_vl", str(tmp_path / "file")]) == 2
    assert "no folder" in capsys.readouterr().err
    out = tmp_path / "own"
    command = ["run", "digits-tiny", "--backbone", str(folder), "--steps", "0", "-o", str(out)]
    assert main(command) == 0
    with lame_training.load_checkpoint(out) as encoder:
        assert encoder.encode("seven").shape == (1, 64)


def test_the_probe_prints_a_row_per_task(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task without a text to decode has no L_rec."""
    tasks = ["--task", "find2", "--task", "same2"]
    assert main(["probe", str(checkpoint), str(data), *tasks]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header.count("|") == rule.count("|") == 9
    assert [row.split(" | ")[0] for row in rows] == ["| find2", "| same2"]
    assert re.fullmatch(r"\| find2( \| -?\d\.\d{3}){5}( \| \d+\.\d{3}){2} \|", rows[0])
    assert rows[1].endswith("| – | – |")
