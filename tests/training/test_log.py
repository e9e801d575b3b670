"""The log of a run: losses, curves, environment, the progress bar, and rows left out."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from lame_training import train
from lame_training.__main__ import main
from lame_training.data import DataSet
from lame_training.recipes.catalog import find_recipe
from lame_training.run.progress import read_dropped, read_losses


def test_rows_with_damaged_pictures_are_left_out_counted_and_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on, names each row once, counts them at the end, and remembers them."""
    copy, out = Path(shutil.copytree(data, tmp_path / "data")), tmp_path / "run"
    for picture in sorted((copy / "images/train").glob("2-*.png"))[:20]:
        picture.write_bytes(picture.read_bytes()[:60])
    command = ["run", "digits-tiny", "--data", str(copy), "--output", str(out)]
    assert main([*command, "--steps", "9"]) == 0
    output = capsys.readouterr().out
    assert "left out:" in output.splitlines()[-2]
    dropped = read_dropped(out / "skipped.jsonl")
    assert len({(row.data_set, row.number) for row in dropped}) == len(dropped) > 3
    assert all("images/train/2-" in row.reason and "decoded" in row.reason for row in dropped)
    assert main([*command, "--resume"]) == 0
    assert {(row.data_set, row.number) for row in read_dropped(out / "skipped.jsonl")} > {
        (row.data_set, row.number) for row in dropped
    }
    assert [int(row["step"]) for row in read_losses(out / "losses.csv")] == list(range(1, 17))
    assert any(int(row["samples"]) < 32 for row in read_losses(out / "losses.csv"))


def test_the_first_row_that_is_left_out_is_a_warning(data: Path, tmp_path: Path) -> None:
    """In a process of its own, a line on stderr names the first row of each data set."""
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    for picture in sorted((copy / "images/train").glob("2-*.png"))[:20]:
        picture.write_bytes(picture.read_bytes()[:60])
    process = subprocess.run(
        run_command(copy, tmp_path / "run", "--steps", "9"),
        capture_output=True,
        text=True,
        check=True,
    )
    warnings = [line for line in process.stderr.splitlines() if "left out:" in line]
    data_sets = [re.search(r"(\w+), \S+, row \d+: left out: ", line)[1] for line in warnings]  # type: ignore[index]
    assert data_sets
    assert len(set(data_sets)) == len(data_sets)
    assert all(str(tmp_path / "run/skipped.jsonl") in line for line in warnings)


def test_samples_are_rows_in_both_stages(data: Path, tmp_path: Path) -> None:
    """A row counts once, with or without L_nce; rows left out or without a text do not count.

    Stage 1 draws from 10 different digits, so most of its 32 rows share their inputs: counting
    distinct inputs, as was once done, gives fewer.
    """
    out = tmp_path / "run"
    train("digits-tiny", data, out, progress=False, steps=7)
    assert [int(row["samples"]) for row in read_losses(out / "losses.csv")] == [32] * 7


def test_samples_leave_out_rows_that_were_dropped_without_l_nce(data: Path, tmp_path: Path) -> None:
    """In stage 1, a row whose picture is damaged is no sample."""
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    damaged = sorted((copy / "images/train").glob("1-*.png"))[:40]
    for picture in damaged:
        picture.write_bytes(picture.read_bytes()[:60])
    tiny = find_recipe("digits-tiny")
    warm_up = dataclasses.replace(tiny.stages[0], tasks=(DataSet("digit", "positive"),))
    recipe = dataclasses.replace(tiny, stages=(warm_up, tiny.stages[1]))
    train(recipe, copy, tmp_path / "run", progress=False, steps=4)
    samples = [int(row["samples"]) for row in read_losses(tmp_path / "run/losses.csv")]
    dropped = read_dropped(tmp_path / "run/skipped.jsonl")
    assert all(0 < count <= 32 for count in samples)
    # a row that is dropped in two steps is listed once
    assert 0 < len(dropped) <= sum(32 - count for count in samples)


def test_a_step_without_any_usable_row_stops_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says where to look."""
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    for picture in (copy / "images/train").glob("1-*.png"):
        picture.write_bytes(b"no picture")
    assert main(["run", "digits-tiny", "--data", str(copy), "-o", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step 1 of stage 'bottleneck warm-up' drew no row it can use" in error
    assert "skipped.jsonl" in error


def run_command(data: Path, out: Path, *extra: str) -> list[str]:
    """Returns the command line of a run in a process of its own."""
    command = [sys.executable, "-m", "lame_training", "run", "digits-tiny"]
    return [*command, "--data", str(data), "--output", str(out), *extra]


def test_the_bar_says_how_the_run_goes(data: Path, tmp_path: Path) -> None:
    """On a terminal, the bar shows stage, steps, losses, rate, samples per second and time left."""
    terminal, stderr = pty.openpty()
    # a fresh terminal has no columns, in which tqdm draws nothing
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    output = b""
    with subprocess.Popen(run_command(data, tmp_path / "run"), stderr=stderr) as process:
        os.close(stderr)
        # on Linux, reading fails once nobody has the other end open any more
        with contextlib.suppress(OSError):
            while block := os.read(terminal, 4096):
                output += block
    os.close(terminal)
    assert process.returncode == 0
    shown = output.decode(errors="replace").split("\r")
    final = [part for part in shown if "joint optimization" in part][-1]
    assert re.search(
        r"joint optimization: +100%.* 16/16 \[\d\d:\d\d<00:00, "
        r".*loss \d+\.\d+ nce \d+\.\d+ rec \d+\.\d+ rate .* \d+ samples/s",
        final,
    )


def test_curves_and_environment_are_written(checkpoint: Path) -> None:
    """TensorBoard reads the losses; the environment names versions and processes."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(checkpoint / "tensorboard"))
    curves.Reload()
    assert set(curves.Tags()["scalars"]) >= {
        "loss/loss",
        "loss/nce",
        "loss/rec",
        "rate",
        "gradient norm",
        "samples per second",
    }
    logged = [row for row in read_losses(checkpoint / "losses.csv") if row["nce"]]
    assert [event.value for event in curves.Scalars("loss/nce")] == pytest.approx(
        [float(row["nce"]) for row in logged], abs=1e-6
    )
    (entry,) = json.loads((checkpoint / "environment.json").read_text())
    assert entry["processes"] == 1
    assert {"torch", "transformers", "lame-training"} <= set(entry["packages"])


def test_pictures_prepared_a_step_ahead_change_nothing(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """With threads the losses are those without."""
    out = tmp_path / "run"
    train("digits-tiny", data, out, threads=2, progress=False)
    ours, theirs = (
        [row["loss"] for row in read_losses(folder / "losses.csv")] for folder in (out, checkpoint)
    )
    assert ours == theirs
