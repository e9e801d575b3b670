"""Reads the JSON files below `engines/`, which the manifest does not hash.

Anybody who can write to the folder may have written them. A file that cannot be read, or is
something else, is passed over: without facts there is no build, and without a certificate the plans
are proved again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeVar

from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError
from lame_runtime.files.constraints import Length, Line, Name, Sha256
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.regular import read_regular

T = TypeVar("T")
MAX_BYTES = 16 << 20
"""Largest file that is read."""
MAX_FILES = 1000
"""Largest number of files of one folder that are looked at."""

PlanHashes = Annotated[dict[Name, Sha256], Length(100)]


@dataclass(frozen=True)
class DeviceReport:
    """Holds what decides whether plans were proved: a part of `device-UUID.json`."""

    passed: bool
    device: Annotated[dict[Name, Line], Length(100)]
    """GPU, driver, TensorRT and use of CUDA graphs."""
    files: PlanHashes
    """sha256 of the plans."""
    date: Name


def read_device_report(path: Path) -> DeviceReport | None:
    """Reads a device's certificate; None if it cannot be read or is damaged."""
    return _read(DeviceReport, path, everything=False)


def read_engine_file(kind: type[T], path: Path) -> T | None:
    """Reads a file whose JSON is an object of a dataclass; None if it is anything else."""
    return _read(kind, path, everything=True)


def matching_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Yields the paths below a folder that match a pattern.

    Links that lead out of the folder are left out, and so are names with control characters, which
    messages and `Encoder.reason` would repeat.
    """
    try:
        if folder.is_symlink():
            return
        root = folder.resolve()
        for path in islice(folder.glob(pattern), MAX_FILES):
            inside = path.resolve().is_relative_to(root)
            if inside and str(path.relative_to(folder)).isprintable():
                yield path
    # a folder that may not be read, or links in a circle
    except (OSError, RuntimeError):
        return


def _read(kind: type[T], path: Path, *, everything: bool) -> T | None:
    try:
        raw = parse_json(read_regular(path, MAX_BYTES), strict=True)
        if not everything and isinstance(raw, dict):
            known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
            raw = {name: value for name, value in raw.items() if name in known}
        return from_json_object(kind, raw, str(path))
    except (OSError, ValueError, BundleError):
        return None
