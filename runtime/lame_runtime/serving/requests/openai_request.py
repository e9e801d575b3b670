"""`POST /v1/embeddings`: OpenAI's shape, with items of every kind in `input`."""

from __future__ import annotations

from typing import Any

from lame_runtime.encoder import Encoder
from lame_runtime.options import EncodeOptions
from lame_runtime.serving.api.api_errors import ApiError
from lame_runtime.serving.api.replies import openai_reply
from lame_runtime.serving.requests.json_body import parse
from lame_runtime.serving.requests.model_names import asked_role
from lame_runtime.serving.requests.schemas import EmbeddingsRequest
from lame_runtime.serving.requests.wanted import (
    Wanted,
    checked_dimensions,
    finishing,
    truncates,
)


def read_openai(body: bytes, encoder: Encoder, name: str) -> Wanted:
    """Reads the body of a request.

    Args:
        body: JSON.
        encoder: for its length of vectors and its roles.
        name: name of the model that is served.

    Raises:
        ApiError: 400 or 404, the request cannot be answered; nothing has been decoded.
    """
    request, raw = parse(body, EmbeddingsRequest)
    # all that can be refused is refused before an item is looked at
    role = asked_role(request.model, request.input_type, name, encoder.prompts)
    options = EncodeOptions(role=role, truncate=truncates(request.truncate))
    kept = checked_dimensions(request.dimensions, encoder.dim, "dimensions")
    last_step = finishing(kept, request.embedding_type or "float32")
    items, places = _items(raw)
    is_base64 = request.encoding_format == "base64"
    return Wanted(items, places, options, openai_reply(last_step, name, is_base64=is_base64))


def _items(raw: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """Returns the items and their places."""
    single, messages = raw.get("input"), raw.get("messages")
    # vLLM has both keys, and one of them only in a request
    if (single is None) == (messages is None):
        raise ApiError(400, "send either `input` or `messages`", param="input")
    if messages is not None:
        return _conversations(messages)
    if not isinstance(single, list):
        return [single], ["input"]
    if not single:
        raise ApiError(400, "`input` is empty: send at least one item", param="input")
    return single, [f"input[{index}]" for index in range(len(single))]


def _conversations(messages: list[Any]) -> tuple[list[Any], list[str]]:
    """Returns one conversation, or the conversations of a list of them."""
    # the lists decide: a message is an object, a conversation a list
    are_lists = [isinstance(entry, list) for entry in messages]
    if messages and all(are_lists):
        return messages, [f"messages[{index}]" for index in range(len(messages))]
    if any(are_lists) or not messages:
        raise ApiError(
            400, "`messages` must be a list of messages, or a list of such lists", param="messages"
        )
    return [messages], ["messages"]
