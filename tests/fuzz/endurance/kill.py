"""Kills jobs at random moments: nothing is half-written, and the next run ends as if undisturbed.

python -m fuzz.endurance.kill --moments 100 --jobs embed,train,export,engine
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz.endurance.child import start
from fuzz.endurance.jobs import JOBS, Job, prepared_job


@dataclass
class Tally:
    """Counts what happened to one job.

    Attributes:
        moments: number of kills that were meant.
        killed: number of runs that were still running.
        faults: what was wrong afterward.
    """

    moments: int = 0
    killed: int = 0
    faults: list[str] = field(default_factory=list)


def run_kills(job: Job, moments: int, random: Random, folder: Path) -> Tally:
    """Kills a job at random moments, and each time lets it finish afterward.

    Args:
        job: the job, prepared.
        moments: number of kills.
        random: chooses the moments.
        folder: an empty folder.
    """
    expected, seconds = undisturbed(job, folder / "whole")
    tally = Tally(moments)
    for moment in range(moments):
        output = folder / str(moment)
        output.mkdir()
        delay = random.uniform(0, seconds)
        tally.killed += _kill(job, output, delay)
        faults = job.faults(output)
        if not faults:
            code, text = finish(job, output)
            faults = [f"exit code {code} afterward: {text[-300:]}"] if code else job.faults(output)
        if not faults and job.result(output) != expected:
            faults = ["the result differs from that of an undisturbed run"]
        tally.faults += [f"{job.name}, killed after {delay:.2f} s: {fault}" for fault in faults]
    return tally


def undisturbed(job: Job, output: Path) -> tuple[object, float]:
    """Runs a job to its end; returns its result and the seconds without those of imports."""
    output.mkdir()
    process = start(job.name, job.fixed, output)
    begin = time.monotonic()
    text, _ = process.communicate()
    seconds = time.monotonic() - begin
    if process.returncode:
        raise RuntimeError(f"{job.name} fails by itself: {text[-2000:]}")
    return job.result(output), seconds


def finish(job: Job, output: Path, largest: int = 0) -> tuple[int, str]:
    """Runs a job to its end; returns the exit code and what it printed after it was ready."""
    process = start(job.name, job.fixed, output, largest)
    text, _ = process.communicate()
    return process.returncode, text


def _kill(job: Job, output: Path, delay: float) -> bool:
    """Starts a job and kills it; returns whether it was still running."""
    process = start(job.name, job.fixed, output)
    time.sleep(delay)
    running = process.poll() is None
    if running:
        # the whole group, because a job may start processes
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return running


def main() -> int:
    """Runs the command line; returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=100, help="kills of all jobs together")
    parser.add_argument("--jobs", default=",".join(JOBS), help="names, with commas between them")
    parser.add_argument("--seed", default="1", help="decides the moments")
    options = parser.parse_args()
    names = options.jobs.split(",")
    print("| job | kills | still running | faults |\n| --- | --- | --- | --- |")
    faults = []
    for index, name in enumerate(names):
        # the rest of the division goes to the first jobs
        moments = options.moments // len(names) + (index < options.moments % len(names))
        with prepared_job(name) as (job, folder):
            tally = run_kills(job, moments, Random(f"{options.seed} {name}"), folder)
        counts = f"{tally.moments} | {tally.killed} | {len(tally.faults)}"
        print(f"| {name} | {counts} |", flush=True)
        faults += tally.faults
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
