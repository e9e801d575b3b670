"""A run that is killed at any moment goes on to the same losses; nothing half-written counts."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lame_runtime.errors import StorageError
from lame_training import folder_lock, train
from lame_training.data.digits import write_digits
from lame_training.folder_lock import LOCK_FILE, locked_folder, reserved_folder
from lame_training.model.checkpoint import load_model
from lame_training.recipes.catalog import find_recipe
from lame_training.run.progress import read_losses
from lame_training.studies.digit_rows import write_reasoning
from safetensors.numpy import load_file

WORKER = Path(__file__).with_name("kill_worker.py")
KILLS = int(os.environ.get("LAME_KILLS", "3"))
"""Number of kills of the test below; more of them can be asked for."""
STEPS = find_recipe("digits-tiny").steps


def start(data: Path, output: Path) -> subprocess.Popen[bytes]:
    """Starts the run, or continues it."""
    command = [sys.executable, str(WORKER), str(data), str(output)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def losses(folder: Path) -> list[tuple[str, ...]]:
    """Returns the rows of losses.csv without the seconds."""
    return [
        tuple(value for key, value in row.items() if key != "seconds")
        for row in read_losses(folder / "losses.csv")
    ]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole") / "run"
    process = start(data, output)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return output


def logged(folder: Path) -> int:
    """Returns the number of steps in a run's log."""
    path = folder / "losses.csv"
    return path.read_bytes().count(b"\n") - 1 if path.is_file() else 0


def kill_at(process: subprocess.Popen[bytes], output: Path, step: int, delay: float) -> bool:
    """Kills a run some time after it has logged a step; returns False if it ended before."""
    while process.poll() is None and logged(output) < step:
        time.sleep(0.005)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    return process.returncode != 0


def test_a_run_killed_at_random_moments_ends_with_the_same_losses(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    """Kill -9 while it starts, trains, saves a state or writes the model: no gap, no difference."""
    moments = random.Random(7)
    kills = runs = 0
    while kills < KILLS:
        output, step, killed = tmp_path / f"run{runs}", 0, True
        while killed:
            process = start(data, output)
            # the first before a step, at a random moment of the start; then ever later ones
            killed = kill_at(process, output, step, moments.uniform(0, 0.3 if step else 4))
            kills += killed
            step = moments.randint(logged(output) + 1, STEPS + 1)
            # `config.json` is written last: a folder that has it is a whole checkpoint
            if killed and (output / "config.json").exists():
                load_model(output)
            if kills == KILLS:
                step = STEPS + 2
        runs += 1
        assert losses(output) == losses(whole)
        assert [int(row[0]) for row in losses(output)] == list(range(1, STEPS + 1))
        expected, weights = (load_file(path / "model.safetensors") for path in (whole, output))
        assert all(np.array_equal(weights[name], value) for name, value in expected.items())
        # the lock is gone, and nothing half-written has a name of its own
        assert not (output / LOCK_FILE).exists()
    print(f"{kills} kills in {runs} runs")


def test_the_lock_ends_with_its_process(data: Path, tmp_path: Path) -> None:
    """While a run holds it, another is refused by folder and process; after a kill it is free."""
    output = tmp_path / "run"
    process = start(data, output)
    while not (output / LOCK_FILE).exists() or not (output / LOCK_FILE).read_text():
        assert process.poll() is None
        time.sleep(0.02)
    message = rf"run: another run is writing to it \(process {process.pid} on .*\); wait for it"
    with pytest.raises(StorageError, match=message):
        train("digits-tiny", data, output, progress=False)
    process.kill()
    process.communicate()
    assert (output / LOCK_FILE).exists()
    with locked_folder(output):
        pass
    assert not (output / LOCK_FILE).exists()


def test_a_lock_is_held_once_also_within_a_process(tmp_path: Path) -> None:
    """It belongs to the opened file, not to the process; what is free again can be taken."""
    folder = tmp_path / "a/b"
    for _ in range(2):
        refused = pytest.raises(StorageError, match="another run is writing")
        with locked_folder(folder), refused, locked_folder(folder):
            pass
    # it was made for the lock and nothing else was written
    assert not (tmp_path / "a").exists()
    with locked_folder(folder):
        (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("write", [write_digits, write_reasoning])
def test_a_second_writer_of_a_data_set_is_refused_at_once(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    """The folder does not exist before it is complete, so the lock lies beside it."""
    root = tmp_path / "new/digits"
    refused = pytest.raises(StorageError, match="digits: another command is writing to it")
    with reserved_folder(root, "command", "root"), refused:
        write(root)
    # nothing is left of either
    assert not list(tmp_path.iterdir())
    with pytest.raises(StorageError, match="cannot be written"):
        write(tmp_path / "a\0b")


def test_without_the_lock_a_second_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the control: taken out, nothing refuses the second."""
    monkeypatch.setattr(folder_lock.fcntl, "flock", lambda *_: None)
    with locked_folder(tmp_path / "a"), locked_folder(tmp_path / "a"):
        pass


def test_a_file_system_without_locks_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none; that is logged."""

    def refuse(*_: object) -> None:
        raise OSError(folder_lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    with locked_folder(tmp_path / "a"):
        assert (tmp_path / "a").is_dir()


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_something_else_in_the_place_of_the_lock_is_refused(kind: str, tmp_path: Path) -> None:
    """A link is not followed: it would empty the file that it leads to."""
    lock, other = tmp_path / LOCK_FILE, tmp_path / "other"
    other.write_text("precious")
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(other)
    with pytest.raises(StorageError, match="cannot be written"), locked_folder(tmp_path):
        pass
    assert other.read_text() == "precious"


def test_every_command_that_writes_a_folder_locks_it(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run`, `evaluate`, `ablation` and `paradigms`: each is refused while another one works."""
    from lame_training.__main__ import main

    out = str(tmp_path / "out")
    commands = (
        ["run", "digits-tiny", "--data", str(data), "--output", out],
        ["evaluate", str(checkpoint), "--data", str(data), "--output", out],
        ["ablation", out, "--seeds", "1"],
        ["paradigms", "--output", out],
    )
    with locked_folder(tmp_path / "out"):
        for command in commands:
            assert main(command) == 2
            error = capsys.readouterr().err.splitlines()[-1]
            assert "out: another " in error
            assert "is writing to it (process" in error
            assert "--output" in error or "another OUT" in error
    assert not (tmp_path / "out").exists()
