"""Runs one job in a process of its own: `python -m fuzz.endurance.child JOB FIXED OUTPUT`.

It prints "ready" when all is imported, so that a kill does not hit imports alone.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from fuzz.endurance.jobs import JOBS
from fuzz.kinds.base import ROOT


def main() -> int:
    """Runs the job that the command line names."""
    name, fixed, output, largest = sys.argv[1:5]
    if name not in JOBS:
        print(f"no job {name}: use {', '.join(JOBS)}")
        return 2
    call = JOBS[name](Path(fixed)).call(Path(output))
    if int(largest):
        # writing beyond the limit then fails like a full disk instead of ending the process
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), resource.RLIM_INFINITY))
    print("ready", flush=True)
    return call()


def start(name: str, fixed: Path, output: Path, largest: int = 0) -> subprocess.Popen[str]:
    """Starts a job and waits until it is ready.

    Args:
        name: one of `JOBS`.
        fixed: what all runs share.
        output: the job's folder.
        largest: largest size of a file in bytes; 0 for no limit.
    """
    packages = [ROOT / name for name in ("runtime", "training", "lame_export", "tests")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, packages)),
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    arguments = [name, str(fixed), str(output), str(largest)]
    process = subprocess.Popen(
        [sys.executable, "-m", "fuzz.endurance.child", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        if line.strip() == "ready":
            return process
        lines.append(line)
    raise RuntimeError(f"{name} did not start: {''.join(lines)[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
