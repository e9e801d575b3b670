"""What a run leaves beside its checkpoint: losses, curves, environment, and the rows it could not use."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lame_training.__main__ import main
from lame_training.progress import read_dropped, read_losses


def test_rows_with_damaged_pictures_are_left_out_counted_and_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run goes on; it says which rows, once each, and how many at the end; --resume remembers them."""
    copy, out = Path(shutil.copytree(data, tmp_path / "data")), tmp_path / "run"
    for picture in sorted((copy / "images/train").glob("2-*.png"))[:20]:
        picture.write_bytes(picture.read_bytes()[:60])
    assert main(["run", "digits-tiny", "--data", str(copy), "--out", str(out), "--steps", "9"]) == 0
    said = capsys.readouterr().out
    assert "left out:" in said.splitlines()[-2]
    dropped = read_dropped(out / "skipped.jsonl")
    assert len({(each.data_set, each.number) for each in dropped}) == len(dropped) > 3
    assert all("images/train/2-" in each.reason and "decoded" in each.reason for each in dropped)
    assert main(["run", "digits-tiny", "--data", str(copy), "--out", str(out), "--resume"]) == 0
    assert {(each.data_set, each.number) for each in read_dropped(out / "skipped.jsonl")} > {
        (each.data_set, each.number) for each in dropped
    }
    assert [int(row["step"]) for row in read_losses(out / "losses.csv")] == list(range(1, 17))
    assert any(int(row["samples"]) < 32 for row in read_losses(out / "losses.csv"))


def test_a_step_without_any_usable_row_stops_the_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says where to look."""
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    for picture in (copy / "images/train").glob("1-*.png"):
        picture.write_bytes(b"no picture")
    assert main(["run", "digits-tiny", "--data", str(copy), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step 1 of stage 'bottleneck warm-up' drew no row it can use" in error
    assert "skipped.jsonl" in error


def test_the_bar_says_how_the_run_goes(data: Path, tmp_path: Path) -> None:
    """Stage, steps of all, losses, rate, samples per second and the time left."""
    command = [sys.executable, "-m", "lame_training", "run", "digits-tiny", "--data", str(data), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    last = [part for part in done.stderr.split("\r") if "joint optimisation" in part][-1]
    assert re.search(
        r"joint optimisation: +100%.* 16/16 \[\d\d:\d\d<00:00, .*loss \d+\.\d+ nce \d+\.\d+ rec \d+\.\d+ rate .* \d+ samples/s", last
    )


def test_curves_and_environment_are_written(checkpoint: Path) -> None:
    """TensorBoard reads the losses; the environment names versions and processes."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(checkpoint / "tensorboard"))
    curves.Reload()
    assert set(curves.Tags()["scalars"]) >= {"loss/loss", "loss/nce", "loss/rec", "rate", "gradient norm", "samples per second"}
    logged = [row for row in read_losses(checkpoint / "losses.csv") if row["nce"]]
    assert [event.value for event in curves.Scalars("loss/nce")] == pytest.approx([float(row["nce"]) for row in logged], abs=1e-6)
    (entry,) = json.loads((checkpoint / "environment.json").read_text())
    assert entry["processes"] == 1
    assert {"torch", "transformers", "lame-training"} <= set(entry["packages"])


def test_pictures_prepared_a_step_ahead_change_nothing(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """With threads the losses are those without."""
    out = tmp_path / "run"
    assert main(["run", "digits-tiny", "--data", str(data), "--out", str(out), "--threads", "2"]) == 0
    ours, theirs = ([row["loss"] for row in read_losses(folder / "losses.csv")] for folder in (out, checkpoint))
    assert ours == theirs
