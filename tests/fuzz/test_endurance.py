"""Stopped jobs leave nothing half-written; the harness sees it when they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from fuzz.endurance.full_disk import can_mount, run_sizes
from fuzz.endurance.jobs import JOBS, Embed
from fuzz.endurance.kill import run_kills
from fuzz.endurance.leaks import main as leaks
from fuzz.endurance.whole import halves


@pytest.mark.parametrize("name", ["embed", "train"])
def test_a_killed_job_ends_as_if_undisturbed_when_it_is_run_again(
    name: str, tmp_path: Path
) -> None:
    """Vectors, losses and weights are those of a run that nobody killed."""
    fixed, runs = tmp_path / "fixed", tmp_path / "runs"
    fixed.mkdir()
    runs.mkdir()
    job = JOBS[name](fixed)
    job.prepare()
    assert run_kills(job, 2, Random("slice"), runs).faults == []


@pytest.mark.parametrize("mounted", [False, True])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    mounted: bool, tmp_path: Path
) -> None:
    """The vectors are whole or not there, on a small disk and with a limit on the size of files."""
    fixed, runs = tmp_path / "fixed", tmp_path / "runs"
    fixed.mkdir()
    runs.mkdir()
    if mounted and not can_mount(runs):
        pytest.skip("a tmpfs cannot be mounted here")
    job = Embed(fixed)
    job.prepare()
    tally = run_sizes(job, 2, runs, mounted=mounted)
    assert tally.faults == []
    assert tally.refused == 1


def test_a_half_written_file_is_noticed(tmp_path: Path) -> None:
    """Each kind of file is seen to be cut; hidden files are those in the making."""
    import numpy as np
    from safetensors.numpy import save_file

    def cut(name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data[: len(data) // 2])

    np.save(tmp_path / "a.npy", np.ones((9, 9)))
    save_file({"a": np.ones((9, 9))}, tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text('{"a": [1, 2, 3]}')
    (tmp_path / "a.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
    assert list(halves(tmp_path)) == []
    for name in ("a.npy", "a.safetensors", "a.json", "a.csv"):
        cut(name, (tmp_path / name).read_bytes())
    assert len(list(halves(tmp_path))) == 4
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f".{path.name}")
    assert list(halves(tmp_path)) == []


def test_a_run_that_differs_after_a_kill_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose second run leaves something else is a fault."""
    fixed, runs = tmp_path / "fixed", tmp_path / "runs"
    fixed.mkdir()
    runs.mkdir()
    job = Embed(fixed)
    job.prepare()
    results = iter(range(10))
    monkeypatch.setattr(job, "result", lambda output: next(results))
    (fault,) = run_kills(job, 1, Random("slice"), runs).faults
    assert "differs" in fault


def test_nothing_stays_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Handles and threads are back to the start after `close`."""
    monkeypatch.setattr("sys.argv", ["leaks", "--calls", "20"])
    assert leaks() == 0
    assert "after `close`" in capsys.readouterr().out


def test_a_handle_that_stays_open_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that opens a file and keeps it fails the check."""
    from fuzz.endurance import leaks as module

    opened: list[object] = []
    original: Callable[..., object] = module.item

    def leaking(*arguments: object) -> object:
        opened.append(Path(__file__).open())  # noqa: SIM115
        return original(*arguments)

    monkeypatch.setattr(module, "item", leaking)
    monkeypatch.setattr("sys.argv", ["leaks", "--calls", "20"])
    assert leaks() == 1
    for file in opened:
        file.close()  # type: ignore[attr-defined]
