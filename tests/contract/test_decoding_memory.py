"""Tests that pictures which are decoded at one time share the memory that one of them may take."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import Encoder, Input, InputError
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.contract.media import decoders
from lame_runtime.contract.media.decoding_limits import (
    MAX_DECODING_BYTES,
    decoding_bytes,
    most_decoding_bytes,
)
from lame_runtime.contract.prompts import Picture, Video
from lame_runtime.preparation import decoding_memory
from lame_runtime.preparation.decoding_memory import DecodingMemory
from PIL import Image

PATIENCE = 60.0
SIZE = (120, 80)
PIXELS = SIZE[0] * SIZE[1]


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, SIZE).save(buffer, kind, **options)
    return buffer.getvalue()


def reserved(item: Input, preparer: Preparer) -> list[int]:
    """Returns what the preparer reserves for an input, one number after the other."""
    sizes: list[int] = []
    preparer(item, reserve=sizes.append)
    return sizes


def test_what_decoding_takes_is_reserved_before_it_is_taken(
    preparer: Preparer, tmp_path: Path
) -> None:
    """It is what the header tells, and everything for what tells too little."""
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG"))
    Image.new("RGB", SIZE).save(tmp_path / "a.pdf")
    frames = Video((Image.new("RGB", SIZE),) * 2, 2.0)
    for source, expected in (
        (encoded("JPEG"), [8 * PIXELS]),
        (str(tmp_path / "a.jpg"), [8 * PIXELS]),
        (encoded("PNG", "L"), [5 * PIXELS]),
        (encoded("WEBP"), [20 * PIXELS] * 2),
        (Image.new("RGB", SIZE), [12 * PIXELS]),
        (Image.open(tmp_path / "a.jpg"), [12 * PIXELS]),
        (Image.open(io.BytesIO(encoded("TIFF"))), [MAX_DECODING_BYTES]),
        (f"{tmp_path}/a.pdf", [MAX_DECODING_BYTES]),
        ((tmp_path / "a.pdf").read_bytes(), [MAX_DECODING_BYTES]),
    ):
        assert reserved(Input(image=source), preparer) == expected
    assert reserved(Input(video=frames), preparer) == [MAX_DECODING_BYTES]
    assert reserved(Input("a text"), preparer) == []
    pictures = (Picture(encoded("JPEG")), "and", Picture(encoded("PNG", "L")))
    assert reserved(Input(content=pictures), preparer) == [8 * PIXELS, 5 * PIXELS]


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("JPEG", "L", {}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGBA", {}),
        ("AVIF", "RGBA", {}),
        ("AVIF", "RGB", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("PPM", "RGB", {}),
    ],
)
def test_the_bound_for_pil_pictures_is_one(kind: str, mode: str, options: dict[str, Any]) -> None:
    """No decoder takes more than is reserved for a picture whose file is not looked at."""
    try:
        image = Image.open(io.BytesIO(encoded(kind, mode, **options)))
    except KeyError:
        pytest.skip(f"Pillow was built without {kind}")
    assert decoding_bytes(image, "a") <= most_decoding_bytes(image)


def test_a_lock_is_never_held_while_memory_is_waited_for(
    preparer: Preparer, tmp_path: Path
) -> None:
    """Whoever holds the memory may need the lock, so the two would wait for each other."""
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    seen: list[bool] = []
    for source in (
        Image.open(tmp_path / "a.png"),
        Image.open(io.BytesIO(encoded("WEBP"))),
        Image.new("RGB", SIZE),
    ):
        preparer(Input(image=source), reserve=lambda _: seen.append(decoders._lock.locked()))  # noqa: SLF001
    assert seen == [False] * 3


class Watched(DecodingMemory):
    """Adds up what all threads hold."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.held = self.most_held = 0
        self.lock = threading.Lock()

    @contextmanager
    def lease(self) -> Iterator[Any]:
        """Yields a function that reserves and counts."""
        own = 0

        def change(to: int) -> None:
            nonlocal own
            with self.lock:
                self.held += to - own
                self.most_held = max(self.most_held, self.held)
            own = to

        with super().lease() as reserve:

            def counted(needed: int) -> None:
                change(0)
                reserve(needed)
                change(min(needed, self._size))

            try:
                yield counted
            finally:
                change(0)


def test_threads_hold_no_more_than_there_is() -> None:
    """Each gets its share in the end, also one that wants more than everything."""
    memory = Watched(100)
    rng = np.random.default_rng(0)

    def work(sizes: list[int]) -> None:
        with memory.lease() as reserve:
            for size in sizes:
                reserve(size)

    jobs = [[int(size) for size in rng.integers(0, 130, 4)] for _ in range(300)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, jobs, timeout=PATIENCE))
    assert 50 < memory.most_held <= 100
    assert memory.held == 0


def test_a_large_picture_is_not_overtaken() -> None:
    """Small ones that come behind it wait, or it might wait forever."""
    memory = DecodingMemory(10)
    order: list[str] = []
    at_hand = threading.Event()

    def decode(name: str, size: int) -> None:
        with memory.lease() as reserve:
            reserve(size)
            order.append(name)

    with memory.lease() as reserve:
        reserve(1)
        large = threading.Thread(target=decode, args=("large", 10))
        small = threading.Thread(target=decode, args=("small", 1))
        large.start()
        while not memory._turn.locked():  # noqa: SLF001 - it waits when it has the turn
            assert not at_hand.wait(0.001)
        small.start()
        assert not order
    for thread in (large, small):
        thread.join(PATIENCE)
    assert order == ["large", "small"]


def test_freed_memory_is_returned_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is before what is kept and what is held exceed the size, and at the end."""
    trimmed: list[int] = []
    monkeypatch.setattr(decoding_memory, "return_freed_memory", lambda: trimmed.append(0))
    memory = DecodingMemory(100)
    for sizes, times in (((60,), 0), ((30,), 0), ((20,), 1), ((80,), 1), ((21,), 2)):
        with memory.lease() as reserve:
            for size in sizes:
                reserve(size)
        assert len(trimmed) == times
    memory.close()
    assert len(trimmed) == 2
    monkeypatch.setattr(decoding_memory, "TRIMMED_BYTES", 21)
    memory.close()
    memory.close()
    assert len(trimmed) == 3


def test_memory_is_free_again_behind_an_error(preparer: Preparer) -> None:
    """A damaged picture gives back what was reserved for it."""
    memory = DecodingMemory(100 * PIXELS)
    for _ in range(3):
        with memory.lease() as reserve, pytest.raises(InputError, match="truncated"):
            preparer(Input(image=encoded("JPEG")[:400]), reserve=reserve)
    with memory.lease() as reserve:
        reserve(100 * PIXELS)


def test_everything_that_needs_a_lock_or_all_memory_ends(
    preparer: Preparer, tmp_path: Path
) -> None:
    """Pages, videos, shared pictures and large ones, by more threads than there are cores."""
    Image.new("RGB", SIZE).save(tmp_path / "a.pdf")
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    encoder = Encoder(preparer, FakeBackend())
    for _ in range(5):
        shared = [Image.open(tmp_path / "a.png") for _ in range(3)]
        inputs = [
            {"image": f"{tmp_path}/a.pdf"},
            {"video": shared},
            {"image": shared[0]},
            {"image": Image.open(io.BytesIO(encoded("TIFF")))},
            {"image": [*shared, f"{tmp_path}/a.pdf", encoded("WEBP")]},
        ]
        assert len(encoder.encode(inputs * 6, workers=8)) == 30
