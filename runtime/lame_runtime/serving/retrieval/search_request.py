"""`POST /v1/search`: one item is embedded, and the nearest rows of the index come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from lame_runtime.contract.batch import Floats
from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError
from lame_runtime.options import EncodeOptions
from lame_runtime.search import Index
from lame_runtime.search.conditions import parse_where
from lame_runtime.serving.api.api_errors import ApiError, input_problem
from lame_runtime.serving.requests.json_body import parse
from lame_runtime.serving.requests.model_names import asked_role
from lame_runtime.serving.requests.schemas import Item, Truncation, Usage
from lame_runtime.serving.requests.wanted import Wanted, truncates

MAX_REPLY_CHARACTERS = 16_000_000
"""Most characters in the columns of the rows of a reply."""
Count = Annotated[int, Meta(ge=1, le=1000)]


class SearchRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/search`."""

    input: str | Item
    model: str | None = None
    input_type: str | None = None
    top_k: Count | None = None
    where: str | list[str] | None = None
    first_stage: Literal["none", "bits", "prefix"] | None = None
    truncate: Truncation | None = None


class SearchResult(Struct):
    """A row of the index; of the path of a file, only the name is sent."""

    score: float
    row: int
    columns: dict[str, str | int | float | bool | None]
    thumbnail: str | None


class SearchReply(Struct):
    """The answer of `POST /v1/search`, the best row first."""

    data: list[SearchResult]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


def read_search(index: Index) -> Callable[[bytes, Encoder, str], Wanted]:
    """Returns a function that reads the bodies of requests, as `read_openai` does."""

    def read(body: bytes, encoder: Encoder, name: str) -> Wanted:
        request, raw = parse(body, SearchRequest)
        role = asked_role(request.model, request.input_type, name, encoder.prompts)
        options = EncodeOptions(
            role=index.facts.query_role(role), truncate=truncates(request.truncate)
        )
        try:
            # before anything is embedded
            parse_where(request.where)
        except UsageError as error:
            raise input_problem(error, "where") from None
        return Wanted([raw["input"]], ["input"], options, _reply(index, request, name))

    return read


def _reply(
    index: Index, request: SearchRequest, name: str
) -> Callable[[Encoder, Floats, Usage], bytes]:
    def reply(encoder: Encoder, vectors: Floats, usage: Usage) -> bytes:
        try:
            matches = index.search(
                encoder.finish(vectors, EncodeOptions()),
                top_k=request.top_k or 10,
                where=request.where,
                first_stage=request.first_stage or "none",
            )
        except UsageError as error:
            param = "where" if "where" in str(error) or "column" in str(error) else "first_stage"
            raise input_problem(error, param) from None
        scores = matches.scores[0].tolist()
        results, size = [], 0
        for row, score in zip(matches.rows[0].tolist(), scores, strict=True):
            values = index.row(row)
            # rows may hold whole documents, and a thousand of them would fill the memory
            size += sum(len(value) for value in values.values() if isinstance(value, str))
            if size > MAX_REPLY_CHARACTERS:
                raise ApiError(
                    400,
                    f"the rows hold more than {MAX_REPLY_CHARACTERS:,} characters: ask for fewer",
                    "reply_too_large",
                    param="top_k",
                )
            results.append(_result(values, row, score))
        return msgspec.json.encode(SearchReply(results, name, usage))

    return reply


def _result(values: dict[str, Any], row: int, score: float) -> SearchResult:
    path = values.get("path")
    # folders of the server are nobody's business
    if isinstance(path, str):
        values["path"] = PurePath(path).name
    return SearchResult(score, row, values, f"v1/search/thumbnails/{row}" if path else None)
