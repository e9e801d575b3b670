"""Tests that the threads of a stream end with it, however it ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import BackendError, Encoder, InputError
from lame_runtime.contract import Preparer
from lame_runtime.machine import cores
from lame_runtime.preparation.thread_pool import THREAD_NAME, ThreadPool
from watched_stream import PATIENCE, WatchedBackend, WatchedPreparer, png, preparing_threads

BUNDLE = Path(__file__).parent.parent.parent / "examples/tiny-bundle"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture
def encoder(preparer: Preparer) -> Encoder:
    return Encoder(preparer, WatchedBackend())


def pictures(count: int = 200) -> Iterator[bytes]:
    yield from (png(number) for number in range(count))


def test_threads_end_with_the_inputs(encoder: Encoder) -> None:
    """They are there while vectors are yielded, and gone behind the last."""
    stream = encoder.stream(pictures(40), batch_size=1, workers=3)
    next(stream)
    assert 1 <= len(preparing_threads()) <= 3
    list(stream)
    assert not preparing_threads()


def test_threads_end_if_a_stream_is_closed_or_abandoned(encoder: Encoder) -> None:
    """Also if only the garbage collector can find it."""
    stream = encoder.stream(pictures(), batch_size=1, workers=3)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not preparing_threads()
    stream = encoder.stream(pictures(), batch_size=1, workers=3)
    next(stream)
    del stream
    assert not preparing_threads()
    circle: list[Any] = [encoder.stream(pictures(), batch_size=1, workers=3)]
    next(circle[0])
    circle.append(circle)
    del circle
    gc.collect()
    assert not preparing_threads()


def test_threads_would_stay_without_closing(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: they do if nothing ends the pool."""
    pools: list[ThreadPool] = []
    close = ThreadPool.close

    def keep(pool: ThreadPool) -> None:
        pools.append(pool)

    monkeypatch.setattr(ThreadPool, "close", keep)
    encoder.encode([png(0), png(1)], workers=2)
    assert preparing_threads()
    close(*pools)
    assert not preparing_threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, BackendError])
def test_threads_end_if_the_model_fails(error: type[BaseException], preparer: Preparer) -> None:
    """An interruption, too, comes through at once, and inputs that were not begun are dropped."""
    begun: list[object] = []

    def fail(number: int) -> None:
        if number == 3:
            raise error("here")

    encoder = Encoder(WatchedPreparer(preparer, begun.append), WatchedBackend(fail))
    with pytest.raises(error, match="here"):
        encoder.encode(pictures(), batch_size=1, workers=2)
    assert not preparing_threads()
    assert len(begun) < 40


def test_an_interruption_of_the_callers_iterator_comes_at_once(encoder: Encoder) -> None:
    """It is no error of an input that had to wait for its turn."""

    def interrupted() -> Iterator[bytes]:
        yield from pictures(20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoder.encode(interrupted(), batch_size=1, workers=2)
    assert not preparing_threads()


def test_a_thread_that_closes_its_own_pool_does_not_wait_for_itself() -> None:
    """The garbage collector runs in any thread, and may find a stream there."""
    pool = ThreadPool(2)
    closed = threading.Event()

    def close() -> Any:
        pool.close()
        closed.set()

    future = pool.submit(close)
    assert future.result(PATIENCE) is None
    assert closed.is_set()
    for thread in threading.enumerate():
        if thread.name.startswith(THREAD_NAME):
            thread.join(PATIENCE)
    assert not preparing_threads()


def test_bad_inputs_leave_no_threads(encoder: Encoder) -> None:
    """The error of an input ends those that are prepared behind it."""
    with pytest.raises(InputError, match="input 5"):
        encoder.encode([*pictures(5), b"bad", *pictures(60)], batch_size=1, workers=4)
    assert not preparing_threads()


FORK = """
import os, sys
from lame_runtime import BackendError, Encoder
from lame_runtime.preparation.thread_pool import THREAD_NAME
import io, threading
from PIL import Image
buffer = io.BytesIO()
Image.new("RGB", (64, 64)).save(buffer, "PNG")
encoder = Encoder.load(sys.argv[1], threads=1)
stream = encoder.stream((buffer.getvalue() for _ in range(100)), batch_size=1, workers=3)
first = next(stream)
assert any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())
pid = os.fork()
if pid == 0:
    try:
        list(stream)
    except BackendError as error:
        print(error, flush=True)
    # ends like any program, with destructors of everything
    sys.exit(7)
status = os.waitpid(pid, 0)[1]
assert os.waitstatus_to_exitcode(status) == 7, status
assert len(list(stream)) == 99
assert threading.active_count() == 1
"""


@needs_fork
def test_a_forked_process_does_not_wait_for_threads_that_it_lacks() -> None:
    """A stream that is advanced there is refused, and the parent goes on."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(BUNDLE)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "`Encoder.load` in each process" in done.stdout


def test_an_interpreter_ends_although_a_stream_is_suspended() -> None:
    """Nothing is written about threads at the end of a program that did not finish its stream."""
    program = FORK.split("pid = os.fork()", maxsplit=1)[0]
    done = subprocess.run(
        [sys.executable, "-c", program, str(BUNDLE)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000", 6),
        ("250000 100000", 2),
        ("1000 100000", 1),
        ("9999999 100000", 6),
        ("-1 100000", 6),
        ("", 6),
        ("1 2 3", 6),
    ],
)
def test_the_default_number_of_workers_follows_the_cores(
    content: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's quota counts, and more than eight threads are never started unasked."""
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(cores, "usable_cores", lambda: 6)
    monkeypatch.setattr(cores, "_QUOTA_FILES", ((str(tmp_path / "cpu.max"),),))
    cores._quota.cache_clear()  # noqa: SLF001 - the quota of a process does not change otherwise
    try:
        assert cores.default_workers() == expected
        monkeypatch.setattr(cores, "_QUOTA_FILES", ((str(tmp_path / "missing"),),))
        cores._quota.cache_clear()  # noqa: SLF001
        monkeypatch.setattr(cores, "usable_cores", lambda: 64)
        assert cores.default_workers() == 8
    finally:
        cores._quota.cache_clear()  # noqa: SLF001


def test_the_default_prepares_like_any_number(encoder: Encoder) -> None:
    """`workers=None` is the default."""
    items = [png(0), png(1), png(2)]
    expected = encoder.encode(items, workers=0)
    assert np.array_equal(encoder.encode(items), expected)
    assert np.array_equal(encoder.encode(items, workers=None), expected)
    assert not preparing_threads()
