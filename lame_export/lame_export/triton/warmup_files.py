"""Writes golden inputs as the raw tensors that Triton's `model_warmup` reads."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.golden import EXTREMES, as_json
from lame_runtime.bundle.members import read_member

FOLDER = "warmup"
"""Folder below the model's, where Triton looks for the files."""
_MOST_BYTES = 100_000_000


@dataclass(frozen=True)
class WarmUp:
    """One input of the warm-up: the file of each tensor, relative to `FOLDER`."""

    name: str
    files: dict[str, str]


def write_warm_ups(bundle: Bundle, folder: Path) -> list[WarmUp]:
    """Writes the first golden input of each modality, and returns what was written.

    The two inputs at the contract's limits are left out, because a large model would take minutes
    to start.

    Args:
        bundle: the bundle, whose golden files are hashed.
        folder: an empty folder.

    Raises:
        BundleError: a golden file cannot be read or differs from the exported one.
        OSError: a file cannot be written.
    """
    bundle.check_golden()
    golden = bundle.golden()
    warm_ups: list[WarmUp] = []
    for modality in golden.modalities:
        if modality in EXTREMES:
            continue
        entry = golden.inputs[golden.of(modality)[0]]
        item = as_json(entry.item, lambda source: _data_uri(bundle, Path(source)))
        values = {"input_json": json.dumps(item, ensure_ascii=False), "input_type": entry.role}
        # numbered, because the name of a modality may be none of a file
        files = {tensor: f"{len(warm_ups)}.{tensor}" for tensor in values}
        for tensor, value in values.items():
            (folder / files[tensor]).write_bytes(_element(value.encode()))
        warm_ups.append(WarmUp(modality, files))
    return warm_ups


def _element(value: bytes) -> bytes:
    """Returns one BYTES element: its length as four little-endian bytes, then the bytes."""
    return struct.pack("<I", len(value)) + value


def _data_uri(bundle: Bundle, path: Any) -> str:
    name = path.relative_to(bundle.folder).as_posix()
    content = read_member(bundle.folder, name, _MOST_BYTES)
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
