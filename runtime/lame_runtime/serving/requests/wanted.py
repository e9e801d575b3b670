"""Brings requests of every shape into one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lame_runtime.contract.batch import Floats
from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError
from lame_runtime.options import EncodeOptions
from lame_runtime.serving.api.api_errors import ApiError
from lame_runtime.serving.requests.schemas import Usage

ReplyForm = Callable[[Encoder, Floats, Usage], bytes]
"""Makes the body of the reply from vectors (n, P) as the backend returned them."""


@dataclass(frozen=True)
class Wanted:
    """Items in JSON, how they are embedded, and how the vectors are sent."""

    items: list[Any]
    """Each a string, an object or a list of messages, checked by the shape of the request."""
    places: list[str]
    """The place of each item in the request, such as `input[3]`."""
    options: EncodeOptions
    """Role and truncation."""
    reply: ReplyForm


def truncates(truncate: str | None) -> bool:
    """Returns whether texts that are too long are cut.

    Raises:
        ApiError: 400, they would be cut at their beginning.
    """
    if truncate == "START":
        raise ApiError(
            400,
            "`truncate` START is not possible: the prompt begins with what the model needs; use "
            '"END" or "NONE"',
            param="truncate",
        )
    return truncate == "END"


def checked_dimensions(dimensions: int | None, dim: int, param: str) -> int | None:
    """Returns the number of values to keep; raises the `ApiError` 400 for more than there are."""
    # the schema has refused what is below 1
    if dimensions is not None and dimensions > dim:
        raise ApiError(
            400, f"`{param}` is {dimensions}: use 1 to {dim}, the length of the vectors",
            param=param,
        )  # fmt: skip
    return dimensions


def finishing(dimensions: int | None, precision: Any) -> EncodeOptions:
    """Returns the options of the last step; raises the `ApiError` 400 if they cannot be."""
    try:
        return EncodeOptions(truncate_dim=dimensions, precision=precision)
    except UsageError:
        raise ApiError(400, "the length of the vectors is out of range") from None
