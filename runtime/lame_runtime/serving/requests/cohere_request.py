"""`POST /v2/embed`: the shape of Cohere's API, on the same steps."""

from __future__ import annotations

from typing import Any

from lame_runtime.encoder import Encoder
from lame_runtime.options import EncodeOptions
from lame_runtime.serving.api.api_errors import ApiError
from lame_runtime.serving.api.replies import cohere_reply
from lame_runtime.serving.requests.json_body import parse
from lame_runtime.serving.requests.model_names import asked_role
from lame_runtime.serving.requests.schemas import CohereRequest
from lame_runtime.serving.requests.wanted import (
    Wanted,
    checked_dimensions,
    finishing,
    truncates,
)


def read_cohere(body: bytes, encoder: Encoder, name: str) -> Wanted:
    """Reads the body of a request; arguments and errors as `read_openai`."""
    request, raw = parse(body, CohereRequest)
    # a picture has no role of its own in Cohere's words
    kind = "document" if request.input_type == "image" else request.input_type
    role = asked_role(request.model, kind, name, encoder.prompts)
    # Cohere cuts by default; here nothing is cut in silence
    options = EncodeOptions(role=role, truncate=truncates(request.truncate))
    kept = checked_dimensions(request.output_dimension, encoder.dim, "output_dimension")
    types = list(dict.fromkeys(request.embedding_types or ["float"]))
    steps = {
        kind: finishing(kept, "float32" if kind in ("float", "base64") else kind) for kind in types
    }
    items, places = _items(raw)
    return Wanted(items, places, options, cohere_reply(steps, request.texts or []))


def _items(raw: dict[str, Any]) -> tuple[list[Any], list[str]]:
    # an empty list counts as none, as in Cohere's own client
    keys = [key for key in ("texts", "images", "inputs") if raw.get(key)]
    if len(keys) != 1:
        raise ApiError(400, "send one of `texts`, `images` and `inputs`, and not empty")
    (key,) = keys
    entries = raw[key]
    if key == "texts":
        # a text is a text here, also one that looks like a `data:` URL
        entries = [{"text": text} for text in entries]
    elif key == "images":
        entries = [{"image": image} for image in entries]
    return entries, [f"{key}[{index}]" for index in range(len(entries))]
