"""Tests of progress bars: redrawn on a terminal, plain lines in a pipe or log."""

from __future__ import annotations

import pytest
from lame_runtime import progress
from lame_runtime.progress import progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replaces the clock of the bars by a value that the test advances."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_for_every_tenth_of_the_work(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    """2,000 updates give 10 lines, none of which is redrawn."""
    for _ in progress_bar(range(2000), desc="training", unit="step"):
        clock[0] += 0.1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("training: 200/2,000 (10%) step in 00:0")
    assert "\r" not in "".join(lines)


def test_slow_work_is_reported_by_the_clock(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    """A line is due after 30 s even if little was done, and without a known total."""
    with progress_bar(total=None, unit="input") as bar:
        for _ in range(60):
            clock[0] += 1
            bar.update()
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_quick_work_is_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """Work that takes less than two seconds prints nothing."""
    for _ in progress_bar(range(100), unit="input"):
        pass
    assert capsys.readouterr().err == ""


def test_a_disabled_bar_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A disabled bar prints nothing, neither during the work nor at the end."""
    with progress_bar(total=10, disable=True) as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, tqdm redraws a single line."""
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with progress_bar(total=10, unit="step") as bar:
        bar.update(10)
    assert "\r" in capsys.readouterr().err
