"""The clients of a framework against the server: its own OpenAI embedders, as they are."""

from __future__ import annotations

import pytest
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from lame_runtime import Encoder
from running_server import RunningServer, data_url

TEXTS = [f"digits that add up to {total}" for total in range(40)]


def test_haystacks_own_embedders_get_the_vectors_of_the_encoder(
    server: RunningServer, encoder: Encoder
) -> None:
    """Texts in Haystack's batches, and a picture as a `data:` URL; the suffix is the role."""
    options = {"api_base_url": f"{server.url}/v1", "api_key": Secret.from_token("none")}
    name = server.client.get("/v1/models").json()["data"][0]["id"]
    text = OpenAITextEmbedder(model=f"{name}-query", **options)
    documents = OpenAIDocumentEmbedder(model=f"{name}-document", progress_bar=False, **options)
    row = text.run(TEXTS[0])["embedding"]
    assert row == pytest.approx(encoder.encode_query(TEXTS[0])[0].tolist(), abs=1e-6)
    picture = encoder.bundle.folder.parent / "pictures/16.png"
    written = documents.run([Document(content=text) for text in [*TEXTS, data_url(picture)]])
    rows = [document.embedding for document in written["documents"]]
    expected = [*encoder.encode_document(TEXTS), encoder.encode_document(picture)[0]]
    assert len(rows) == len(expected)
    for row, vector in zip(rows, expected, strict=True):
        assert row == pytest.approx(vector.tolist(), abs=1e-6)
    # another model's name is an error, not vectors of this one
    with pytest.raises(Exception, match="404"):
        OpenAITextEmbedder(model="other-query", **options).run(TEXTS[0])
