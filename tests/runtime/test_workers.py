"""Tests that inputs are prepared by threads while the model runs, and that nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import Encoder, Input, InputError
from lame_runtime.contract import Preparer
from lame_runtime.preparation import thread_pool, windows
from watched_stream import (
    PATIENCE,
    WatchedBackend,
    WatchedPreparer,
    every_kind,
    png,
    preparing_threads,
)


@pytest.mark.parametrize("window_bytes", [windows.WINDOW_BYTES, 400_000])
def test_vectors_do_not_depend_on_the_number_of_workers(
    window_bytes: int, preparer: Preparer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and so are the batches, whether windows end by number or by size."""
    monkeypatch.setattr(windows, "WINDOW_BYTES", window_bytes)
    vectors, batches = [], []
    for workers in (0, 1, 2, 8):
        backend = WatchedBackend()
        items = every_kind(tmp_path, 75)
        vectors.append(Encoder(preparer, backend).encode(items, batch_size=2, workers=workers))
        batches.append(backend.batches)
    assert all(np.array_equal(vectors[0], others) for others in vectors[1:])
    assert all(batches[0] == others for others in batches[1:])
    assert not preparing_threads()


def test_inputs_are_prepared_at_the_same_time(preparer: Preparer) -> None:
    """Two pictures wait for each other, which one thread could not serve."""
    both = threading.Barrier(2, timeout=PATIENCE)
    encoder = Encoder(WatchedPreparer(preparer, lambda _: both.wait()), WatchedBackend())
    assert len(encoder.encode([png(0), png(1)], workers=2)) == 2


@pytest.mark.parametrize("workers", [2, 0])
def test_the_next_window_is_prepared_while_the_model_runs(workers: int, preparer: Preparer) -> None:
    """The first batch ends only once an input behind its window is prepared.

    The control prepares in the calling thread, which does so only after the window.
    """
    is_ahead = threading.Event()
    seen: list[bool] = []

    def before_input(item: Input) -> None:
        if item.text == "16":
            is_ahead.set()

    def before_batch(number: int) -> None:
        if number == 0 and workers:
            assert is_ahead.wait(PATIENCE)
        seen.append(is_ahead.is_set())

    encoder = Encoder(WatchedPreparer(preparer, before_input), WatchedBackend(before_batch))
    inputs = [{"image": png(number), "text": str(number)} for number in range(20)]
    assert len(encoder.encode(inputs, batch_size=1, workers=workers)) == 20
    assert seen[:16] == [bool(workers)] * 16


@pytest.mark.parametrize("workers", [0, 2, 8])
def test_the_first_bad_input_is_named(workers: int, preparer: Preparer) -> None:
    """It is so although one behind it fails first, and nothing is embedded."""
    later_failed = threading.Event()

    def before(item: Input) -> None:
        if item.text == "early" and workers:
            assert later_failed.wait(PATIENCE)
        if item.text == "late":
            later_failed.set()

    encoder = Encoder(WatchedPreparer(preparer, before), WatchedBackend())
    bad = b"no picture"
    inputs = [{"image": png()}, {"image": bad, "text": "early"}, {"image": bad, "text": "late"}, 7]
    with pytest.raises(InputError, match=r"^input 1: "):
        encoder.encode(inputs, workers=workers)  # type: ignore[list-item]
    assert not preparing_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_after_the_vectors_before_it(workers: int, preparer: Preparer) -> None:
    """A window is yielded although the caller's iterator, or an input, failed behind it."""

    def broken(error: Any) -> Iterator[Any]:
        yield from (png(number) for number in range(16))
        yield "a text"
        if isinstance(error, Exception):
            raise error
        yield error
        yield "never embedded"

    encoder = Encoder(preparer, WatchedBackend())
    for error, kind in ((KeyError("mine"), KeyError), (b"bad", InputError), (7, InputError)):
        stream = encoder.stream(broken(error), batch_size=1, workers=workers)
        assert len([next(stream) for _ in range(16)]) == 16
        with pytest.raises(kind, match=r"mine|input 17"):
            next(stream)
        assert not preparing_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_is_bounded(workers: int, preparer: Preparer) -> None:
    """At most 16 batches are read ahead, and as many again for threads; of texts never more."""
    read = 0

    def endless(item: Any) -> Iterator[Any]:
        nonlocal read
        read = 0
        while True:
            read += 1
            yield item

    encoder = Encoder(preparer, WatchedBackend())
    stream = encoder.stream(endless("text"), batch_size=2, workers=workers)
    for _ in range(33):
        next(stream)
    assert read == 64
    stream = encoder.stream(endless(png()), batch_size=2, workers=workers)
    next(stream)
    assert 32 < read <= 64 if workers else read == 32
    for _ in range(32):
        next(stream)
    assert 64 < read <= 96 if workers else read == 64


def test_unfinished_inputs_are_bounded(preparer: Preparer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a thread hangs on the first input, only a few behind it are read."""
    may_end = threading.Event()
    read: list[int] = []

    def before(item: Input) -> None:
        if item.text == "0":
            # released by the reader, which has to stop and wait for this input
            assert may_end.wait(PATIENCE)

    def inputs() -> Iterator[Any]:
        for number in range(400):
            read.append(number)
            if number == 2 * windows.PENDING_PER_WORKER - 1:
                threading.Timer(0.2, may_end.set).start()
            assert number < 2 * windows.PENDING_PER_WORKER or may_end.is_set()
            yield {"image": png(), "text": str(number)}

    encoder = Encoder(WatchedPreparer(preparer, before), WatchedBackend())
    assert len(encoder.encode(inputs(), workers=2)) == 400


@pytest.mark.parametrize("window_bytes", [200_000, 1 << 40])
def test_prepared_inputs_are_bounded_in_bytes(
    window_bytes: int, preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window and what is prepared ahead take no more, except for one input each.

    The control has no limit, and holds all pictures of a window and of the next one.
    """
    monkeypatch.setattr(windows, "WINDOW_BYTES", window_bytes)
    size = preparer(Input(image=png())).nbytes
    for workers in (0, 2, 8):
        watched = WatchedPreparer(preparer)
        encoder = Encoder(watched, WatchedBackend())
        inputs = (png(number) for number in range(200))
        assert len(list(encoder.stream(inputs, batch_size=8, workers=workers))) == 200
        is_bounded = watched.most_held <= 2 * (200_000 + size)
        assert is_bounded == (window_bytes == 200_000)
        assert watched.held == 0


def test_the_callers_iterator_stays_in_the_callers_thread(preparer: Preparer) -> None:
    """It is advanced and closed there, and file objects are read there."""
    threads: set[int] = set()

    class File:
        def seek(self, position: int) -> None:
            threads.add(threading.get_ident())

        def tell(self) -> int:
            return 0

        def read(self, size: int) -> bytes:
            threads.add(threading.get_ident())
            return png()

    def inputs() -> Iterator[Any]:
        try:
            for _ in range(100):
                threads.add(threading.get_ident())
                yield {"image": File()}
        finally:
            threads.add(threading.get_ident())

    encoder = Encoder(preparer, WatchedBackend())
    encoder.encode(inputs(), batch_size=2, workers=4)
    stream = encoder.stream(inputs(), batch_size=2, workers=4)
    next(stream)
    del stream
    assert threads == {threading.get_ident()}


def test_no_thread_starts_for_texts_and_for_one_picture(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor for any number of workers below two."""

    def refuse(_: int) -> None:
        raise AssertionError("a thread would start")

    monkeypatch.setattr(windows, "ThreadPool", refuse)
    encoder = Encoder(preparer, WatchedBackend())
    encoder.encode(["a", "b"], workers=8)
    encoder.encode({"image": png()}, workers=8)
    encoder.encode([{"image": png()}], workers=8)
    encoder.encode([png(), png()], workers=0)
    encoder.encode([png(), png()], workers=1)
    with pytest.raises(AssertionError, match="would start"):
        encoder.encode([png(), png()], workers=2)


def test_without_threads_the_caller_prepares(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that gives no threads, or Python at its end, costs speed alone."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    encoder = Encoder(preparer, WatchedBackend())
    expected = encoder.encode([png(0), png(1)], workers=0)
    monkeypatch.setattr(thread_pool.ThreadPoolExecutor, "submit", refuse)
    assert np.array_equal(encoder.encode([png(0), png(1)], workers=4), expected)
