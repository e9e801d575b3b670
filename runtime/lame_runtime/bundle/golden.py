"""Reads golden vectors: inputs that ship with a bundle, with token ids, hashes and embeddings.

golden/inputs.jsonl     one input per line, with modality, ids and hashes of positions and patches
golden/images/*.png     pictures of the inputs, and frames of their videos
golden/embeddings.npy   float32 (n, P), computed by PyTorch in FP32
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from lame_runtime.arguments import MAX_FPS, MIN_FPS
from lame_runtime.bundle.manifest import FileName
from lame_runtime.bundle.members import COPY_AGAIN, name_problem, open_member, read_member
from lame_runtime.bundle.vector_file import read_vectors
from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input, Picture
from lame_runtime.contract.rules import TokenId
from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError, InputError, UsageError, shown
from lame_runtime.files.constraints import Between, Length, Name, Sha256, Text
from lame_runtime.files.json_file import parse_json
from lame_runtime.inputs import as_input

GOLDEN_INPUTS, GOLDEN_VECTORS = "golden/inputs.jsonl", "golden/embeddings.npy"
MAX_INPUTS_BYTES = 256 << 20
"""Largest `inputs.jsonl` that is read; the longest input of a published model takes about 60 kB."""

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
    place: str = GOLDEN_INPUTS
    """File and number of the input, for messages."""

    def prepare(self, preparer: Preparer) -> Prepared:
        """Returns the input as the contract prepares it.

        Raises:
            BundleError: the contract refuses it, or does not know its role.
        """
        try:
            return preparer(self.item, self.role)
        except (InputError, UsageError) as error:
            raise BundleError(f"{self.place}: {error}; {COPY_AGAIN}") from None


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
        patches.update(visual.pixel_patches(preparer.contract).tobytes())
    positions = hashlib.sha256(np.ascontiguousarray(prepared.positions).tobytes()).hexdigest()
    return prepared.ids.tolist(), positions, patches.hexdigest() if prepared.visuals else ""


def read_golden(folder: Path, listed: Mapping[str, str] | None = None) -> Golden:
    """Reads `FOLDER/golden/`.

    Args:
        folder: the bundle, or the folder that becomes one.
        listed: sha256 of the files of the bundle by name; a picture must be one of them. None, for
            a bundle that is being made, takes any file below `golden/`.

    Raises:
        BundleError: a file is missing or cannot be read, a picture lies elsewhere, an input occurs
            twice, or inputs and embeddings differ in number.
    """
    path = folder / GOLDEN_INPUTS
    content = read_member(folder, GOLDEN_INPUTS, MAX_INPUTS_BYTES)
    # of the bytes that were read, because a file may change between two readings; the inputs hold
    # hashes of what is made of their pictures
    if listed is not None and hashlib.sha256(content).hexdigest() != listed.get(GOLDEN_INPUTS):
        raise BundleError(
            f"{shown(path)}: differs from what was exported (wrong sha256); {COPY_AGAIN}"
        )
    lines = content.split(b"\n")
    try:
        # not `splitlines`, which also splits at U+2028, a valid character of a text
        rows = [parse_json(line, strict=True) for line in lines if line]
    except ValueError as error:
        raise BundleError(f"{shown(path)}: cannot be read ({error}); {COPY_AGAIN}") from None
    if not rows:
        raise BundleError(
            f"{shown(path)}: holds no inputs, so nothing can be verified; {COPY_AGAIN}"
        )
    inputs, numbers = [], dict[str, int]()
    for number, row in enumerate(rows, 1):
        inputs.append(_parse(row, folder, f"{shown(path)}: input {number}", listed))
        # copies of one input would count as several
        key = json.dumps([row[name] for name in ("modality", "role", "content", "instruction")])
        if (first := numbers.setdefault(key, number)) != number:
            raise BundleError(f"{shown(path)}: input {number} repeats input {first}; {COPY_AGAIN}")
    # an empty hash, that of no file, for vectors that are not listed
    sha256 = None if listed is None else listed.get(GOLDEN_VECTORS, "")
    embeddings = read_vectors(folder, GOLDEN_VECTORS, sha256)
    # rows are compared by position, so a missing one would shift all others
    if len(inputs) != len(embeddings):
        raise BundleError(
            f"{shown(folder / 'golden')}: {len(inputs)} inputs but {len(embeddings)} embeddings; "
            "export the bundle again"
        )
    return Golden(inputs, embeddings)


def as_json(item: Input, name: Callable[[Any], str]) -> dict[str, Any]:
    """Returns the JSON object of an input, which `inputs.as_input` reads back.

    Args:
        item: the input; its videos must be lists of frames.
        name: returns the path that a picture or a frame is stored under.

    Raises:
        InputError: a video is a file, which this function does not decode.
    """
    parts: list[dict[str, Any]] = []
    # texts of `content` as they are: whether white space counts depends on the contract
    for part in item.parts if item.text or item.image or item.video else item.content:
        if isinstance(part, str):
            parts.append({"text": part})
        elif isinstance(part, Picture):
            parts.append({"image": name(part.source)})
        elif isinstance(part.source, Sequence) and not isinstance(part.source, str | bytes):
            parts.append({"video": [name(frame) for frame in part.source], "fps": part.fps})
        else:
            raise InputError("the video is a file: give its frames as a list to store it")
    return {"content": parts, "instruction": item.instruction}


@dataclass(frozen=True)
class _Picture:
    image: FileName


@dataclass(frozen=True)
class _Frames:
    video: Annotated[list[FileName], Length(65_536, 1)]
    fps: Annotated[float, Between(MIN_FPS, MAX_FPS)] | None


@dataclass(frozen=True)
class _Text:
    text: Annotated[str, Text(10_000_000)]


@dataclass(frozen=True)
class _Row:
    """Represents one line of `golden/inputs.jsonl`."""

    modality: Name
    role: Name
    content: Annotated[list[dict[Name, Any]], Length(10_000, 1)]
    instruction: Annotated[str, Text(65_536)] | None
    ids: Annotated[list[TokenId], Length(1 << 21)]
    positions: Sha256
    patches: Annotated[str, Text(64, pattern="([0-9a-f]{64})?")]


def _parse(raw: object, folder: Path, where: str, listed: Collection[str] | None) -> GoldenInput:
    row: _Row = from_json_object(_Row, raw, where, COPY_AGAIN)
    for part in row.content:
        kind = _Picture if "image" in part else _Frames if "video" in part else _Text
        parsed: Any = from_json_object(kind, part, f"{where}: content", COPY_AGAIN)
        for name in [parsed.image] if kind is _Picture else parsed.video if kind is _Frames else []:
            problem = name_problem(name)
            if not problem and not name.startswith("golden/"):
                problem = "is outside golden/"
            if not problem and listed is not None and name not in listed:
                problem = "is not listed in the manifest"
            if problem:
                raise BundleError(f"{where}: names {shown(name)!r}, which {problem}; {COPY_AGAIN}")
            # a link that leads out, or a pipe
            open_member(folder, name).close()
    try:
        # paths of pictures are relative to the bundle
        item = as_input({"content": row.content, "instruction": row.instruction}, folder)
    except InputError as error:
        raise BundleError(f"{where}: {error}; {COPY_AGAIN}") from None
    return GoldenInput(item, row.role, row.modality, row.ids, row.positions, row.patches, where)
