"""Vectors as JSON, in OpenAI's and in Cohere's form."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from lame_runtime.contract.batch import Floats
from lame_runtime.encoder import Encoder
from lame_runtime.options import EncodeOptions
from lame_runtime.serving.requests.schemas import (
    BilledUnits,
    CohereMeta,
    CohereReply,
    Embedding,
    EmbeddingsReply,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def openai_reply(
    options: EncodeOptions, name: str, *, is_base64: bool
) -> Callable[[Encoder, Floats, Usage], bytes]:
    """Returns a function that makes OpenAI's reply.

    Args:
        options: length and type of the vectors.
        name: name of the model.
        is_base64: send base64 of the little-endian bytes instead of numbers.
    """

    def reply(encoder: Encoder, vectors: Floats, usage: Usage) -> bytes:
        # the last step runs here and not with the batch, whose items may ask for other types
        rows = _rows(encoder.finish(vectors, options), is_base64=is_base64)
        data = [Embedding(index, row) for index, row in enumerate(rows)]
        return msgspec.json.encode(EmbeddingsReply(data, name, usage))

    return reply


def cohere_reply(
    steps: Mapping[Any, EncodeOptions], texts: list[str]
) -> Callable[[Encoder, Floats, Usage], bytes]:
    """Returns a function that makes Cohere's reply.

    Args:
        steps: length and type of the vectors, by Cohere's name of the type.
        texts: the texts that were embedded, which the reply repeats.
    """

    def reply(encoder: Encoder, vectors: Floats, usage: Usage) -> bytes:
        # from the same vectors: nothing runs twice for several types
        embeddings = {
            kind: _rows(encoder.finish(vectors, options), is_base64=kind == "base64")
            for kind, options in steps.items()
        }
        units = BilledUnits(usage.text_tokens, usage.vision_tokens)
        content = CohereReply(uuid.uuid4().hex, embeddings, texts, CohereMeta(units))
        return msgspec.json.encode(content)

    return reply


def _rows(vectors: npt.NDArray[Any], *, is_base64: bool) -> list[list[float] | str]:
    if not is_base64:
        rows: list[list[float] | str] = vectors.tolist()
        return rows
    # the same bytes on machines of either byte order
    little = np.ascontiguousarray(vectors, dtype=vectors.dtype.newbyteorder("<"))
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in little]
