"""Keeps builds and timing caches on disk.

ENGINES/GRAPH.PROFILE.KEY/              two plans and build.json, see `backends.tensorrt.plans`
CACHE/timing/MODULE-VERSION-GPU.cache   kernel timings of earlier builds

The timing cache lies in the user's own cache folder and not in the bundle: every build reads it
without asking, and a bundle may come from somebody else.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lame_runtime.backends.tensorrt.plans import Build, PlanFacts, cache_folder, read_facts
from lame_runtime.backends.tensorrt.signature import sign
from lame_runtime.bundle.manifest import sha256_file
from lame_runtime.errors import LameError, StorageError
from lame_runtime.files.atomic import atomic_path
from lame_runtime.files.regular import read_regular

_logger = logging.getLogger(__name__)
MAX_TIMINGS = 1 << 30
"""Largest timing cache in bytes; those of large models take some megabytes."""


def find_equal_build(folder: Path, facts: PlanFacts) -> Build | None:
    """Returns the build in a folder if it is undamaged and was built from the same facts.

    Its signature must show that this account built it, since a plan is code.
    """
    recorded = read_facts(folder / "build.json")
    # Whatever is wrong with the file, building again repairs it.
    if recorded is None or _without_outcome(recorded) != _without_outcome(facts):
        return None
    try:
        undamaged = all(
            sha256_file(folder / name) == expected for name, expected in recorded.files.items()
        )
    except OSError:
        return None
    return Build(folder, recorded) if undamaged and recorded.signature == sign(recorded) else None


def _without_outcome(facts: PlanFacts) -> PlanFacts:
    """Returns the facts without those that two builds of the same job do not share."""
    return replace(facts, files={}, date="", signature="")


def temporary_name(folder: Path) -> Path:
    """Returns the path beside `folder` where this process puts a build until it is complete."""
    return folder.with_name(f".{folder.name}.{os.getpid()}")


def swap_in(fresh: Path, target: Path, facts: PlanFacts) -> Build:
    """Renames a complete build to its final name, replacing an earlier build of that name.

    The earlier build is moved aside first, and comes back if the renaming fails.

    Args:
        fresh: the complete build.
        target: its final name.
        facts: the content of its `build.json`.

    Returns:
        The build; if another process put an equal one there in the meantime, that one.

    Raises:
        StorageError: the file system refuses.
    """
    aside = fresh.with_name(f"{fresh.name}.before")
    try:
        # A folder with content cannot be replaced by renaming, so there is a moment without one.
        if target.exists():
            target.rename(aside)
        fresh.rename(target)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        # Another process may have been faster.
        equal = find_equal_build(target, facts)
        if equal is None:
            raise StorageError(
                f"{target}: cannot be written ({error.strerror}); choose another folder as `output`"
            ) from None
        return equal
    finally:
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            # Fails if there was no earlier build to bring back.
            with suppress(OSError):
                aside.rename(target)
    return Build(target, facts)


def remove_build(folder: Path) -> None:
    """Removes plans that compute wrong numbers; raises `StorageError` if they cannot be removed."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be removed ({error.strerror}); remove it, as its plans are wrong "
            f"here"
        ) from None


def timing_cache_file(trt: Any, device: str) -> Path | None:
    """Returns the timing cache of a TensorRT version and a GPU, or None if there is to be none.

    TensorRT-RTX has none because it measures nothing when it builds. An account without a cache
    folder has none either.
    """
    cache = cache_folder()
    if cache is None or trt.__name__ != "tensorrt":
        return None
    # Names of GPUs have spaces, and some a slash.
    device = "_".join(re.split(r"[ /]", device))
    return cache / "timing" / f"{trt.__name__}-{trt.__version__}-{device}.cache"


def read_timing_cache(path: Path | None) -> bytes | None:
    """Returns what earlier builds measured: empty bytes if there were none, None without a path."""
    if path is None:
        return None
    try:
        return read_regular(path, MAX_TIMINGS)
    except FileNotFoundError:
        return b""
    except OSError as error:
        # a cache only makes the build faster; what is there instead is replaced afterwards
        _logger.warning("%s: the timing cache is not read (%s)", path, error.strerror)
        return b""


def write_timing_cache(path: Path, content: bytes) -> None:
    """Writes a timing cache; only warns if that fails, as it just makes the next build faster."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as fresh:
            fresh.write_bytes(content)
    except (OSError, LameError) as error:
        _logger.warning("%s: the timing cache was not written (%s)", path, error)
