"""What a run was made with: packages, machine, processes, commit."""

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
from lame_runtime.atomic import atomic_text

from lame_training.world import World

PACKAGES = ("lame-training", "lame-runtime", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy", "pillow")


def write_environment(folder: Path, world: World, rows: list[str]) -> None:
    """Appends this process's environment to `environment.json`, one entry per start of the run.

    Args:
        folder: the run's.
        world: the processes.
        rows: a line about each data set.
    """
    path = folder / "environment.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        entries = []
    atomic_text(path, json.dumps([*entries, {**environment(world), "rows": rows}], indent=2) + "\n")


def environment(world: World) -> dict[str, Any]:
    """Date (UTC), versions, commit of the working tree where there is one, devices and processes."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": commit(),
        "processes": world.size,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the repository that holds this file, with "+" where its files differ from it; None outside of one."""
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name) is None or (found := _git("rev-parse", "--short", "HEAD")) is None:
        return None
    return found + ("+" if _git("status", "--porcelain", "--", ".") else "")


def _git(*arguments: str) -> str | None:
    """What git prints in this file's folder; None where it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
