"""Golden vectors: inputs that ship with a bundle, what the contract makes of them, and PyTorch's embeddings.

golden/inputs.jsonl     one input per line, with its modality, expected ids and hashes of positions and patches
golden/images/*.png     their pictures and the frames of their videos
golden/embeddings.npy   float32 (n, P), PyTorch in FP32
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import BundleError, InputError
from lame_runtime.inputs import as_input

EXTREMES = ("longest text", "largest picture")
"""Modalities of the two inputs at the contract's limits; they are checked to be finite and right, like the others."""


@dataclass(frozen=True)
class GoldenInput:
    """One golden input and what the contract must make of it."""

    item: Input
    role: str
    modality: str
    ids: list[int]
    positions: str
    """sha256 of the int64 M-RoPE positions."""
    patches: str
    """sha256 of the float32 patches; empty without a picture."""


@dataclass(frozen=True)
class Golden:
    """All golden inputs of a bundle and PyTorch's embeddings of them."""

    inputs: list[GoldenInput]
    embeddings: npt.NDArray[np.float32]

    def of(self, modality: str) -> list[int]:
        """Indices of the inputs of one modality."""
        return [index for index, each in enumerate(self.inputs) if each.modality == modality]

    @property
    def modalities(self) -> list[str]:
        """Modalities present, in order of first occurrence."""
        return list(dict.fromkeys(each.modality for each in self.inputs))


def fingerprint(prepared: Prepared, preparer: Preparer) -> tuple[list[int], str, str]:
    """Ids, hash of the positions and hash of the patches of a prepared input."""
    patches = hashlib.sha256()
    for visual in prepared.visuals:
        patches.update(visual.patches(preparer.contract).tobytes())
    positions = hashlib.sha256(np.ascontiguousarray(prepared.positions).tobytes()).hexdigest()
    return prepared.ids.tolist(), positions, patches.hexdigest() if prepared.visuals else ""


def read_golden(folder: Path) -> Golden:
    """Reads `FOLDER/golden/`; raises `BundleError` where it is missing or unreadable."""
    try:
        lines = (folder / "golden/inputs.jsonl").read_text(encoding="utf-8").split("\n")
        inputs = [_parse(json.loads(line), folder) for line in lines if line]  # not splitlines: texts may hold U+2028
        embeddings = np.load(folder / "golden/embeddings.npy", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise BundleError(f"{folder / 'golden'}: cannot be read ({error}); copy or export the bundle again") from None
    if len(inputs) != len(embeddings):
        raise BundleError(f"{folder / 'golden'}: {len(inputs)} inputs but {len(embeddings)} embeddings; export the bundle again")
    return Golden(inputs, embeddings)


def _parse(raw: dict[str, Any], folder: Path) -> GoldenInput:
    item = as_input({"content": raw["content"], "instruction": raw["instruction"]}, folder)
    return GoldenInput(item, raw["role"], raw["modality"], raw["ids"], raw["positions"], raw["patches"])
