"""The environment of a run: packages, machine, processes and commit, in `environment.json`."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lame_runtime.files.atomic import atomic_text
from lame_runtime.files.json_file import read_json

from lame_training.distributed.processes import ProcessGroup

PACKAGES = (
    "lame-training",
    "lame-runtime",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "pillow",
)
"""Distributions whose versions are recorded: those that can change what a run computes."""


def write_environment(folder: Path, processes: ProcessGroup, rows: list[str]) -> None:
    """Appends an entry to `environment.json`; a run that was resumed has several.

    Args:
        folder: the output folder.
        processes: the processes of the run.
        rows: one line about each data set.
    """
    path = folder / "environment.json"
    # a list: a run may be continued on another machine or with another version
    try:
        entries = read_json(path)
    except (OSError, ValueError):
        entries = []
    # a record for people: a damaged one must not stop the run
    if not isinstance(entries, list):
        entries = []
    entry = {**environment(processes), "rows": rows}
    atomic_text(path, json.dumps([*entries, entry], indent=2) + "\n")


def environment(processes: ProcessGroup) -> dict[str, Any]:
    """Returns date (UTC), versions, commit, number of processes and device."""
    versions = {name: _version(name) for name in PACKAGES}
    if processes.device.type == "cuda":
        device = torch.cuda.get_device_name(processes.device)
    else:
        # another number of threads sums in another order, so it belongs to the record
        device = f"CPU, {torch.get_num_threads()} threads"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: number for name, number in versions.items() if number},
        "commit": commit(),
        "processes": processes.size,
        "device": device,
    }


def _version(name: str) -> str | None:
    """Returns the version of an installed distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Returns the commit of the repository that holds this package; None outside of one.

    A "+" follows if the package's files differ from the commit.
    """
    # a package installed into a virtual environment inside some repository is not tracked by it
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    short_hash = _git("rev-parse", "--short", "HEAD")
    if short_hash is None:
        return None
    return short_hash + ("+" if _git("status", "--porcelain", "--", ".") else "")


def _git(*arguments: str) -> str | None:
    """Returns the output of git in this file's folder; None if git fails or is not installed."""
    try:
        process = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None
