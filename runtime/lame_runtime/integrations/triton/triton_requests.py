"""Turns the tensors and parameters of one request to Triton into inputs.

Tensors hold BYTES, one value per row of the request, and all are optional. Their names, and those
of the parameters, are the ones that NVIDIA's embedding NIMs use, so that their clients work:

    text         a text; a `data:` URI of a picture is that picture
    image        the bytes of a picture, or a `data:` URI
    input_json   an input as a dict of `lame_runtime.inputs`, with pictures as `data:` URIs
    modality     "text" or "image": how `text` is to be read, rather than by how it begins
    input_type   "query" or "passage", of this row

Parameters are `input_type`, `modality`, `truncate`, `dimensions` and `embedding_type`. A row with
`text` and `image` gives one vector. Clients are strangers: no string of theirs is the name of a
file or is fetched from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lame_runtime.arguments import described, integer
from lame_runtime.batching import file_names
from lame_runtime.contract.fields.roles import ROLE_WORDS, role_instruction
from lame_runtime.contract.prompts import Input, Video
from lame_runtime.contract.rules import Contract
from lame_runtime.errors import InputError, UsageError, shown
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.urls import resolved
from lame_runtime.inputs import as_input

TENSORS = ("text", "image", "input_json", "modality", "input_type")
"""Names of the input tensors."""
PARAMETERS = ("input_type", "modality", "truncate", "dimensions", "embedding_type")
_DATA = "data:"
_ENCODED = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class TritonRequest:
    """One request: its inputs, and the options that hold for all of them."""

    items: list[Input]
    """The inputs, each with the instruction of its role."""
    truncate: bool
    """Whether texts that are too long are cut."""
    dimensions: int | None
    """Number of leading values to keep of each vector; None for all."""


def read_request(
    tensors: Mapping[str, Sequence[bytes]],
    parameters: Mapping[str, Any],
    contract: Contract,
    *,
    allow_video: bool = False,
) -> TritonRequest:
    """Reads one request, without decoding its pictures.

    Args:
        tensors: the values of each tensor that the client sent, one per row; an empty value counts
            as none.
        parameters: the request's parameters.
        contract: for the instructions of roles and the length of the vectors.
        allow_video: take encoded videos, too, and not only lists of frames.

    Raises:
        InputError: a row cannot be read; the message names it by its number.
        UsageError: a parameter is unknown or out of range.
    """
    if unknown := sorted(set(parameters) - set(PARAMETERS)):
        # a misspelled role would otherwise give other vectors without a word
        raise UsageError(f"unknown parameter {shown(unknown[0])!r}: use {', '.join(PARAMETERS)}")
    # the server refuses such requests itself, but their rows must not be mixed up in any case
    counts = {len(values) for values in tensors.values()}
    if not counts:
        raise InputError("the request is empty: give `text`, `image` or `input_json`")
    if len(counts) > 1:
        raise InputError("the tensors have different numbers of rows; give each the same number")
    items = []
    for number in range(counts.pop()):
        row = {name: values[number] for name, values in tensors.items() if values[number]}
        try:
            item = _read_row(row, parameters, allow_video=allow_video)
            role = _role(row, parameters)
            instruction = role_instruction(contract.prompt, item, role)
        except (InputError, UsageError) as error:
            raise InputError(f"input {number}: {error}") from None
        # per input, because `encode` takes one role for all of them
        items.append(replace(item, instruction=instruction))
    return TritonRequest(items, _truncate(parameters), _dimensions(parameters, contract.dim))


def _read_row(
    row: Mapping[str, bytes], parameters: Mapping[str, Any], *, allow_video: bool
) -> Input:
    if "input_json" in row:
        if "text" in row or "image" in row:
            raise InputError("give either `input_json`, or `text` and `image`, not both")
        return _checked(_parsed_json(row["input_json"]), allow_video=allow_video)
    # bytes of a picture are never text, so only those of a `data:` URI are decoded
    text = _decoded(row, "text") if "text" in row else ""
    picture: str | bytes | None = row.get("image")
    if picture is not None and picture[: len(_DATA)].lower() == _DATA.encode():
        picture = _decoded(row, "image")
    if _is_picture(text, row, parameters):
        if picture is not None:
            raise InputError("`text` is a picture and so is `image`; give both in `input_json`")
        text, picture = "", text
    if not text and picture is None:
        raise InputError("the row is empty: give `text`, `image` or `input_json`")
    # the order of the keys is that of the parts for contracts that take them as they are given
    parts = {} if picture is None else {"image": picture}
    return _checked({**parts, "text": text}, allow_video=allow_video)


def _checked(item: Any, *, allow_video: bool) -> Input:
    """Converts a dict to an input, and refuses one that a server must not read."""
    if not isinstance(item, dict):
        raise InputError('`input_json` must be a JSON object, such as {"text": "a red bicycle"}')
    # decodes `data:` URIs and refuses URLs; opens nothing
    parsed = as_input(item)
    # asked of the result, because a source may stand in many places of a dict
    for name in file_names(parsed):
        raise InputError(
            f"{shown(name)}: names a file, and a server opens none; give its bytes as a data: URI"
        )
    is_encoded = any(
        isinstance(part, Video) and isinstance(part.source, bytes) for part in parsed.parts
    )
    if is_encoded and not allow_video:
        raise InputError("videos are turned off on this server; give a list of frames instead")
    return parsed


def _is_picture(text: str, row: Mapping[str, bytes], parameters: Mapping[str, Any]) -> bool:
    """Returns whether `text` is a picture: by the modality, or by how it begins."""
    modality = _decoded(row, "modality") if "modality" in row else parameters.get("modality")
    if modality not in (None, "text", "image"):
        raise UsageError(
            f"`modality` is {described(modality)}: use text or image; "
            "a text with a picture takes the tensors `text` and `image`"
        )
    if modality == "text":
        # whoever says so may embed a `data:` URI as the letters that it is
        return False
    # not `is_url`: a text may well begin with an address
    is_uri = text.lstrip()[: len(_DATA)].lower() == _DATA and isinstance(resolved(text), bytes)
    if modality == "image" and text and not is_uri:
        raise InputError("`modality` is image, but `text` is no data: URI; give one, or `image`")
    # the picture would be embedded as the letters of its encoding
    if not is_uri and _ENCODED.search(text):
        raise InputError(
            "`text` holds a data: URI among other words; give the picture as `image`, or set "
            "`modality` to text"
        )
    return is_uri


def _role(row: Mapping[str, bytes], parameters: Mapping[str, Any]) -> str | None:
    kind = _decoded(row, "input_type") if "input_type" in row else parameters.get("input_type")
    if kind is None:
        # the contract may have a default of its own
        return None
    if not isinstance(kind, str) or kind not in ROLE_WORDS:
        raise UsageError(f"`input_type` is {described(kind)}: use {', '.join(ROLE_WORDS)}")
    return ROLE_WORDS[kind]


def _truncate(parameters: Mapping[str, Any]) -> bool:
    end = parameters.get("truncate", "NONE")
    if end not in ("NONE", "END"):
        raise UsageError(f"`truncate` is {described(end)}: use NONE or END")
    return bool(end == "END")


def _dimensions(parameters: Mapping[str, Any], dim: int) -> int | None:
    kind = parameters.get("embedding_type", "float")
    if kind != "float":
        # the tensor `embeddings` is FP32
        raise UsageError(f"`embedding_type` is {described(kind)}: use float, and quantize later")
    dimensions = parameters.get("dimensions")
    return None if dimensions is None else integer("dimensions", dimensions, 1, dim)


def _parsed_json(text: bytes) -> Any:
    try:
        return parse_json(text, strict=True, finite=True)
    except ValueError as error:
        raise InputError(f"`input_json` is not JSON ({shown(error)})") from None


def _decoded(row: Mapping[str, bytes], name: str) -> str:
    try:
        return row[name].decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"`{name}` is not UTF-8; a picture belongs in `image`") from None
