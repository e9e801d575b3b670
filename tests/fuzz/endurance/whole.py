"""Whether the files of a folder are complete."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def halves(folder: Path) -> Iterator[str]:
    """Yields the files under a final name that are not complete.

    Hidden names are those of files in the making; nothing reads them.
    """
    for path in sorted(folder.rglob("*")):
        names = path.relative_to(folder).parts
        # copies of rows are checked by the library that maps them, curves are appended to
        if any(name.startswith(".") or name in ("cache", "tensorboard") for name in names):
            continue
        if path.is_file() and (fault := _fault(path)):
            yield f"{'/'.join(names)}: {fault}"


def _fault(path: Path) -> str:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").split("\n")
            assert lines[-1] == "", "the last line has no end"
            [json.loads(line) for line in lines if line]
        elif path.suffix == ".npy":
            assert np.isfinite(np.load(path)).all()
        elif path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.suffix == ".csv":
            lines = path.read_text(encoding="utf-8").split("\n")
            assert lines[-1] == "", "the last line has no end"
            assert len({line.count(",") for line in lines if line}) == 1, "lines differ"
        elif path.suffix in (".png", ".onnx", ".plan", ".data"):
            assert path.stat().st_size, "is empty"
    except (ValueError, AssertionError, OSError, struct.error) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _check_safetensors(path: Path) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    assert len(data) == 8 + length + max(ends, default=0), "is cut"
