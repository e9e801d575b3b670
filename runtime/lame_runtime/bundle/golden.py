"""Reads golden vectors: inputs that ship with a bundle, with token ids, hashes and embeddings.

golden/inputs.jsonl     one input per line, with modality, ids and hashes of positions and patches
golden/images/*.png     pictures of the inputs, and frames of their videos
golden/embeddings.npy   float32 (n, P), computed by PyTorch in FP32
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.bundle.manifest import COPY_AGAIN
from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import BundleError, InputError
from lame_runtime.inputs import as_input

EXTREMES = ("longest text", "largest picture")
"""Modalities of the two inputs at the contract's limits, which have rows of their own."""


@dataclass(frozen=True)
class GoldenInput:
    """Represents one golden input with its expected ids, positions and patches."""

    item: Input
    role: str
    modality: str
    ids: list[int]
    positions: str
    """sha256 of the int64 M-RoPE positions."""
    patches: str
    """sha256 of the float32 patches; empty for an input without pictures."""


@dataclass(frozen=True)
class Golden:
    """Holds all golden inputs of a bundle, and PyTorch's embeddings of them."""

    inputs: list[GoldenInput]
    embeddings: npt.NDArray[np.float32]
    """float32 (n, P), unit rows."""

    def of(self, modality: str) -> list[int]:
        """Returns the indices of the inputs of one modality."""
        return [index for index, entry in enumerate(self.inputs) if entry.modality == modality]

    def subset(self, indices: list[int]) -> Golden:
        """Returns the inputs at the given indices with their embeddings."""
        return Golden([self.inputs[index] for index in indices], self.embeddings[indices])

    @property
    def modalities(self) -> list[str]:
        """The modalities of the inputs, in order of first occurrence."""
        return list(dict.fromkeys(entry.modality for entry in self.inputs))


def fingerprint(prepared: Prepared, preparer: Preparer) -> tuple[list[int], str, str]:
    """Returns ids, hash of the positions and hash of the patches of a prepared input."""
    patches = hashlib.sha256()
    # hashed, because the patches of large pictures could take more space than the model
    for visual in prepared.visuals:
        patches.update(visual.patches(preparer.contract).tobytes())
    positions = hashlib.sha256(np.ascontiguousarray(prepared.positions).tobytes()).hexdigest()
    return prepared.ids.tolist(), positions, patches.hexdigest() if prepared.visuals else ""


def read_golden(folder: Path) -> Golden:
    """Reads `FOLDER/golden/`.

    Raises:
        BundleError: a file is missing or cannot be read, or inputs and embeddings differ in number.
    """
    golden = folder / "golden"
    try:
        # not `splitlines`, which also splits at U+2028, a valid character of a text
        lines = (golden / "inputs.jsonl").read_text(encoding="utf-8").split("\n")
        inputs = [_parse(json.loads(line), folder) for line in lines if line]
        embeddings = np.load(golden / "embeddings.npy", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise BundleError(f"{golden}: cannot be read ({error}); {COPY_AGAIN}") from None
    # rows are compared by position, so a missing one would shift all others
    if len(inputs) != len(embeddings):
        raise BundleError(
            f"{golden}: {len(inputs)} inputs but {len(embeddings)} embeddings; "
            "export the bundle again"
        )
    return Golden(inputs, embeddings)


def _parse(raw: dict[str, Any], folder: Path) -> GoldenInput:
    # paths of pictures are relative to the bundle
    item = as_input({"content": raw["content"], "instruction": raw["instruction"]}, folder)
    return GoldenInput(
        item, raw["role"], raw["modality"], raw["ids"], raw["positions"], raw["patches"]
    )
