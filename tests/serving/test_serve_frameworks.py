"""The clients of frameworks against the server: their own OpenAI embedders, as they are."""

from __future__ import annotations

import numpy as np
import pytest
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from lame_runtime import Encoder
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from openai import BadRequestError
from running_server import RunningServer, data_url

TEXTS = [f"digits that add up to {total}" for total in range(40)]
MANY = [f"digits that add up to {total % 97}" for total in range(2048)]
"""More than one request of LangChain (1,000 texts) and of LlamaIndex (10)."""


def name_of(server: RunningServer) -> str:
    """Returns the name of the model."""
    return str(server.client.get("/v1/models").json()["data"][0]["id"])


def test_langchains_client_with_its_chunks(server: RunningServer, encoder: Encoder) -> None:
    """2,048 texts and a query; with the switch that the refusal of token ids names."""
    options = {"model": name_of(server), "base_url": f"{server.url}/v1", "api_key": "none"}
    embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False, **options)
    before = server.figure("lame_requests_total")
    rows = embeddings.embed_documents(MANY)
    # the requests for the figures count as well
    assert server.figure("lame_requests_total") - before == 3 + 1
    np.testing.assert_allclose(rows, encoder.encode(MANY), atol=1e-6)
    query = embeddings.embed_query(TEXTS[0])
    np.testing.assert_allclose(query, encoder.encode(TEXTS[0])[0], atol=1e-6)


def test_langchains_token_ids_are_refused(server: RunningServer) -> None:
    """It sends them by default; here without the tokenizer that it would download."""
    options = {"model": name_of(server), "base_url": f"{server.url}/v1", "api_key": "none"}
    client = OpenAIEmbeddings(check_embedding_ctx_length=False, **options).client
    with pytest.raises(BadRequestError, match="check_embedding_ctx_length=False"):
        client.create(input=[[1, 2, 3]], model=name_of(server))


def test_llama_indexs_client_with_its_batches(server: RunningServer, encoder: Encoder) -> None:
    """2,048 texts in 205 requests of its default size, and a query."""
    embedding = OpenAILikeEmbedding(
        model_name=name_of(server), api_base=f"{server.url}/v1", api_key="none"
    )
    before = server.figure("lame_requests_total")
    rows = embedding.get_text_embedding_batch(MANY)
    assert server.figure("lame_requests_total") - before == 205 + 1
    np.testing.assert_allclose(rows, encoder.encode(MANY), atol=1e-6)
    query = embedding.get_query_embedding(TEXTS[0])
    np.testing.assert_allclose(query, encoder.encode(TEXTS[0])[0], atol=1e-6)


def test_haystacks_own_embedders_get_the_vectors_of_the_encoder(
    server: RunningServer, encoder: Encoder
) -> None:
    """Texts in Haystack's batches, and a picture as a `data:` URL; the suffix is the role."""
    options = {"api_base_url": f"{server.url}/v1", "api_key": Secret.from_token("none")}
    name = name_of(server)
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
