"""Calls an encoder many times with inputs of many shapes: memory stays level, nothing stays open.

    python -m fuzz.endurance.leaks --calls 20000

Prints resident memory after each tenth of the calls, and handles and threads before loading, after
the calls, and after `close`. Exits with 1 if handles or threads are not back to the start. There
is no bound on memory here; figures are in `runtime/BENCHMARKS.md`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

from lame_runtime import Encoder

from fuzz.kinds.base import TINY_BUNDLE
from fuzz.media.pages import write_pdf
from fuzz.media.pictures import pattern, pictures
from fuzz.media.videos import write_video


def main() -> int:
    """Runs the command line; returns 1 if something stays open."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--bundle", type=Path, default=TINY_BUNDLE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pdf = Path(folder) / "a.pdf"
        pdf.write_bytes(write_pdf(count=2))
        return _run(options.bundle, options.calls, pdf)


def _run(bundle: Path, calls: int, pdf: Path) -> int:
    random = Random(1)
    # everything is imported and every decoder used before the start is noted
    with Encoder.load(bundle, backend="onnxruntime", threads=1) as encoder:
        for _ in range(100):
            encoder.encode([item(random, pdf) for _ in range(5)])
    start = state()
    print("| calls | resident MB | handles | threads |\n| --- | --- | --- | --- |")
    print(row("start", start))
    encoder = Encoder.load(bundle, backend="onnxruntime", threads=1)
    begin = time.monotonic()
    for tenth in range(1, 11):
        for _ in range(calls // 10):
            encoder.encode([item(random, pdf) for _ in range(random.choice((1, 1, 2, 5)))])
        print(row(f"{tenth * (calls // 10):,}", state()), flush=True)
    seconds = time.monotonic() - begin
    encoder.close()
    end = state()
    print(row("after `close`", end))
    print(f"\n{calls:,} calls in {seconds:.0f} s")
    return 0 if end[1:] == start[1:] else 1


def item(random: Random, pdf: Path) -> Any:
    """Returns an input: mostly texts and pictures of many sizes, some videos and PDF pages."""
    choice = random.random()
    if choice < 0.5:
        return "word " * random.randrange(1, 80)
    if choice < 0.8:
        return pattern(random.randrange(1, 200), random.randrange(1, 200))
    if choice < 0.9:
        return {"image": random.choice(pictures()[:18]).data, "text": "a"}
    if choice < 0.98:
        frames = [pattern(40 + 8 * number, 64) for number in range(random.randrange(2, 8))]
        return {"video": [frames[0]] * len(frames), "fps": 1}
    if choice < 0.99:
        return {"video": write_video("matroska", "mpeg4", "yuv420p", random.randrange(2, 9))}
    return {"image": f"{pdf}#page=2"}


def state() -> tuple[float, int, int]:
    """Returns resident memory in MB, the number of open handles, and that of threads."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = max(threading.active_count(), len(os.listdir("/proc/self/task")))  # noqa: PTH208
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")), threads  # noqa: PTH208


def row(name: str, figures: tuple[float, int, int]) -> str:
    """Returns a row of the table."""
    return f"| {name} | {figures[0]:.1f} | {figures[1]} | {figures[2]} |"


if __name__ == "__main__":
    sys.exit(main())
