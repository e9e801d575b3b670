"""The shapes of requests as msgspec types: they check what clients send, and describe it.

An item is decided by its JSON type: a string is a text, or a picture if it is a `data:` URL; an
object is an input of LaME, or a content part as Cohere, Voyage and OpenAI have it; a list is a
conversation. Unknown keys are errors: a misspelled one would change the vector in silence.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

PartType = Literal[
    "text", "image", "image_url", "image_base64", "video", "video_url", "video_base64"
]
ValueType = Literal["float32", "int8", "uint8", "binary", "ubinary"]
CohereType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
Truncation = Literal["NONE", "END", "START"]
Dimensions = Annotated[int, Meta(ge=1, description="Number of leading values to keep.")]


# `detail` is accepted because OpenAI's clients send it; the contract sets the size
class MediaUrl(Struct, forbid_unknown_fields=True):
    """A URL in an object, as in OpenAI's chat messages."""

    url: str
    detail: str | None = None


class Part(Struct, forbid_unknown_fields=True, kw_only=True):
    """A text, picture or video of an input."""

    type: PartType | None = None
    text: str | None = None
    image: str | list[str] | None = None
    video: str | list[str] | None = None
    fps: float | None = None
    image_url: str | MediaUrl | None = None
    image_base64: str | None = None
    video_url: str | MediaUrl | None = None
    video_base64: str | None = None


class Item(Part):
    """One input; a text with a picture gives one vector."""

    content: str | list[str | Part] | None = None
    instruction: str | None = None


class Message(Struct, forbid_unknown_fields=True):
    """A message of a conversation; the system's is the instruction."""

    role: Literal["system", "user", "assistant"]
    content: str | list[str | Part] | None = None


# null is accepted everywhere: clients send null for what was not set
class EmbeddingsRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/embeddings`."""

    input: str | Item | list[str | Item | list[Message]] | None = None
    messages: list[Message | list[Message]] | None = None
    model: str | None = None
    input_type: str | None = None
    dimensions: Dimensions | None = None
    encoding_format: Literal["float", "base64"] | None = None
    embedding_type: ValueType | None = None
    truncate: Truncation | None = None
    user: str | None = None


class CohereInput(Struct, forbid_unknown_fields=True):
    """One input in Cohere's shape."""

    content: list[Part]


# without `max_tokens` and `priority`, which could not be kept
class CohereRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v2/embed`."""

    model: str | None = None
    texts: list[str] | None = None
    images: list[str] | None = None
    inputs: list[CohereInput] | None = None
    input_type: str | None = None
    embedding_types: list[CohereType] | None = None
    output_dimension: Dimensions | None = None
    truncate: Truncation | None = None


class Usage(Struct):
    """Tokens of a request, those of LaME's reasoning included."""

    prompt_tokens: int
    total_tokens: int
    text_tokens: int
    vision_tokens: int


class Embedding(Struct):
    """One vector: numbers, or base64 of their little-endian bytes."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingsReply(Struct):
    """The answer of `POST /v1/embeddings`."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


class BilledUnits(Struct):
    """Tokens of a request by their kind."""

    input_tokens: int
    image_tokens: int


class CohereMeta(Struct):
    """Facts about a request."""

    billed_units: BilledUnits


class CohereReply(Struct):
    """The answer of `POST /v2/embed`: one list of vectors for each type."""

    id: str
    embeddings: dict[CohereType, list[list[float] | str]]
    texts: list[str]
    meta: CohereMeta


class ErrorDetail(Struct):
    """An error in words, its place in the request, and a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Struct):
    """The body of every error."""

    error: ErrorDetail
