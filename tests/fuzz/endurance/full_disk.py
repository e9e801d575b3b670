"""Runs jobs on disks that are too small: one line of error, and nothing half-written.

    python -m fuzz.endurance.full_disk --sizes 20 --jobs embed,train,export

The disk is a tmpfs, which takes root. Where it cannot be mounted, the size of a file is limited.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.endurance.jobs import Job, prepared_job
from fuzz.endurance.kill import finish
from fuzz.outcome import message_fault

SMALLEST = 16 << 10
FULL = ("No space left on device", "File too large", "cannot be written", "free some", "space")
"""Pieces of a message that says what happened."""


@dataclass
class Tally:
    """Counts what happened to one job on disks of several sizes.

    Attributes:
        refused: number of sizes that were too small, and said so.
        finished: number of sizes that were large enough.
        faults: what was wrong.
    """

    refused: int = 0
    finished: int = 0
    faults: list[str] = field(default_factory=list)


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[None]:
    """Mounts a tmpfs of `size` bytes; raises `PermissionError` where that is not permitted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        raise PermissionError("a tmpfs cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def run_sizes(job: Job, count: int, folder: Path, *, mounted: bool) -> Tally:
    """Runs a job on disks of `count` sizes, up to twice what it leaves.

    Args:
        job: the job, prepared.
        count: number of sizes.
        folder: an empty folder.
        mounted: mount a small disk, or else limit the size of a file.
    """
    whole = folder / "whole"
    whole.mkdir()
    code, text = finish(job, whole)
    if code:
        raise RuntimeError(f"{job.name} fails by itself: {text[-2000:]}")
    sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
    # twice what is left at the end, because files in the making take space as well
    most = 2 * (sum(sizes) if mounted else max(sizes))
    tally = Tally()
    for number in range(count):
        size = SMALLEST + (most - SMALLEST) * number // max(count - 1, 1)
        output = folder / str(number)
        output.mkdir()
        with disk(output, size) if mounted else contextlib.nullcontext():
            code, text = finish(job, output, 0 if mounted else size)
            faults = [*_judge(code, text), *job.faults(output)]
        tally.refused += code != 0
        tally.finished += code == 0
        tally.faults += [f"{job.name}, {size:,} bytes: {fault}" for fault in faults]
    return tally


def _judge(code: int, text: str) -> list[str]:
    """Returns what is wrong with the exit code and the message of a job on a small disk."""
    if code == 0:
        return []
    if code not in (1, 2) or "Traceback" in text:
        return [f"exit code {code}: {text[-300:]}"]
    line = text.strip().split("\n")[-1]
    fault = message_fault(line, [])
    if fault:
        return [f"the message {fault}: {line[:300]}"]
    return [] if any(piece in line for piece in FULL) else [f"another message: {line[:300]}"]


def main() -> int:
    """Runs the command line; returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, default=20, help="sizes for each job")
    parser.add_argument("--jobs", default="embed,train,export", help="names, with commas")
    options = parser.parse_args()
    print("| job | sizes | refused | finished | faults |\n| --- | --- | --- | --- | --- |")
    faults = []
    for name in options.jobs.split(","):
        with prepared_job(name) as (job, folder):
            tally = run_sizes(job, options.sizes, folder, mounted=can_mount(folder))
        counts = f"{options.sizes} | {tally.refused} | {tally.finished} | {len(tally.faults)}"
        print(f"| {name} | {counts} |", flush=True)
        faults += tally.faults
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def can_mount(folder: Path) -> bool:
    """Returns whether a tmpfs can be mounted."""
    probe = folder / "probe"
    probe.mkdir()
    try:
        with disk(probe, 1 << 20):
            return True
    except PermissionError:
        return False
    finally:
        probe.rmdir()


if __name__ == "__main__":
    sys.exit(main())
