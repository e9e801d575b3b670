"""A bundle in Haystack: the vectors are the encoder's, and pipelines retrieve with them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.core.errors import DeserializationError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from lame_runtime import BundleError, InputError, UsageError
from lame_runtime.encoder import Encoder
from lame_runtime.integrations.haystack import (
    LameDocumentEmbedder,
    LameImageDocumentEmbedder,
    LameTextEmbedder,
)
from PIL import Image

TEXTS = ["digits that add up to seven", "digits that add up to nine", "the digit four"]
EMBEDDERS = (LameTextEmbedder, LameDocumentEmbedder, LameImageDocumentEmbedder)


def picture_documents(paths: list[str]) -> list[Document]:
    return [Document(id=path, meta={"file_path": path}) for path in paths]


def test_vectors_are_those_of_the_encoder(roles: Encoder, pictures: list[str]) -> None:
    """Queries, documents and pictures have the instruction of their role."""
    row = LameTextEmbedder(roles).run(text=TEXTS[0])["embedding"]
    assert row == roles.encode_query(TEXTS[0])[0].tolist()
    documents = [Document(content=text) for text in TEXTS]
    embedded = LameDocumentEmbedder(roles).run(documents=documents)["documents"]
    assert [document.embedding for document in embedded] == roles.encode_document(TEXTS).tolist()
    assert [document.content for document in embedded] == TEXTS
    # the documents that came in stay as they were
    assert all(document.embedding is None for document in documents)
    images = LameImageDocumentEmbedder(roles).run(picture_documents(pictures))["documents"]
    expected = roles.encode_document([Path(path) for path in pictures]).tolist()
    assert [document.embedding for document in images] == expected
    assert LameDocumentEmbedder(roles).run(documents=[]) == {"documents": []}


def test_fields_of_meta_stand_before_the_text(encoder: Encoder) -> None:
    """A field that is missing or None is left out."""
    embedder = LameDocumentEmbedder(
        encoder, meta_fields_to_embed=["title", "note"], embedding_separator=" | "
    )
    documents = [
        Document(content="seven", meta={"title": "Sums"}),
        Document(content="nine", meta={"title": None}),
    ]
    rows = [document.embedding for document in embedder.run(documents)["documents"]]
    assert rows == encoder.encode_document(["Sums | seven", "nine"]).tolist()


def test_pictures_are_found_from_a_root_and_pages_by_number(
    encoder: Encoder, pictures: list[str], tmp_path: Path
) -> None:
    """A PDF of several pages needs the number, and each page has a vector of its own."""
    path = Path(pictures[0])
    embedder = LameImageDocumentEmbedder(encoder, file_path_meta_field="p", root_path=path.parent)
    (document,) = embedder.run([Document(meta={"p": path.name})])["documents"]
    assert document.embedding == encoder.encode_document(path)[0].tolist()
    pages = [Image.open(name).convert("RGB") for name in pictures[:2]]
    pages[0].save(tmp_path / "a.pdf", save_all=True, append_images=pages[1:])
    meta = {"file_path": str(tmp_path / "a.pdf")}
    embedder = LameImageDocumentEmbedder(encoder)
    numbered = [Document(meta={**meta, "page_number": number}) for number in (1, 2)]
    rows = [document.embedding for document in embedder.run(numbered)["documents"]]
    names = [f"{meta['file_path']}#page={number}" for number in (1, 2)]
    assert rows == encoder.encode_document([{"image": name} for name in names]).tolist()
    assert rows[0] != rows[1]
    with pytest.raises(InputError, match="has 2 pages; choose one"):
        embedder.run([Document(meta=meta)])


def test_errors_are_those_of_the_encoder(
    encoder: Encoder, pictures: list[str], tmp_path: Path
) -> None:
    """One line each, and the embedder works afterward."""
    embedder = LameImageDocumentEmbedder(encoder)
    with pytest.raises(InputError, match=r"^input 1: none\.png: no such file; check the path$"):
        embedder.run(picture_documents([pictures[0], "none.png"]))
    with pytest.raises(InputError, match=r"^input 1: `meta` has no file_path: set it to the path"):
        embedder.run([*picture_documents(pictures[:1]), Document(content="seven")])
    with pytest.raises(InputError, match=r"^input 0: the input is empty"):
        LameDocumentEmbedder(encoder).run([Document(content=None)])
    with pytest.raises(UsageError, match="`documents` is not a list of Documents"):
        LameDocumentEmbedder(encoder).run("seven")
    with pytest.raises(BundleError, match="none"):
        LameTextEmbedder(tmp_path / "none").warm_up()
    assert len(embedder.run(picture_documents(pictures))["documents"]) == len(pictures)


def make_pipelines(model: Any, **options: Any) -> tuple[Pipeline, Pipeline]:
    """Returns a pipeline that writes texts and pictures to a store, and one that searches it."""
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    writing, search = Pipeline(), Pipeline()
    for name, kind in (("texts", LameDocumentEmbedder), ("images", LameImageDocumentEmbedder)):
        writing.add_component(name, kind(model, **options))
        writing.add_component(f"write_{name}", DocumentWriter(store))
        writing.connect(f"{name}.documents", f"write_{name}.documents")
    search.add_component("embedder", LameTextEmbedder(model, **options))
    search.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=10))
    search.connect("embedder.embedding", "retriever.query_embedding")
    return writing, search


def test_pipelines_retrieve_what_the_encoder_finds(roles: Encoder, pictures: list[str]) -> None:
    """Scores of the store are the cosines, for texts and pictures, also asynchronously."""
    writing, search = make_pipelines(roles)
    texts = [Document(id=text, content=text) for text in TEXTS]
    writing.run(
        {"texts": {"documents": texts}, "images": {"documents": picture_documents(pictures)}}
    )
    query = {"embedder": {"text": TEXTS[1]}}
    hits = search.run(query)["retriever"]["documents"]
    documents = np.concatenate(
        [roles.encode_document(TEXTS), roles.encode_document([Path(path) for path in pictures])]
    )
    cosines = roles.similarity(roles.encode_query(TEXTS[1]), documents)[0]
    expected = dict(zip([*TEXTS, *pictures], cosines.tolist(), strict=True))
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-6)
    assert asyncio.run(search.run_async(query))["retriever"]["documents"] == hits


def test_a_pipeline_is_saved_and_loaded(folder: Path) -> None:
    """By the bundle's folder and the options; the loaded pipeline gives the same vectors."""
    _, search = make_pipelines(
        folder, load_options={"graph": "fp32"}, encode_options={"truncate_dim": 8}
    )
    text = search.dumps()
    assert str(folder) in text
    query = {"embedder": {"text": TEXTS[0]}}
    with pytest.raises(DeserializationError, match="allowlist"):
        Pipeline.loads(text)
    again = Pipeline.loads(text, allowed_modules=["lame_runtime.integrations.haystack"])
    kept = {"include_outputs_from": {"embedder"}}
    assert again.run(query, **kept)["embedder"] == search.run(query, **kept)["embedder"]


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_each_embedder_is_made_again_from_its_dict(
    kind: Any, folder: Path, encoder: Encoder
) -> None:
    """Every argument returns; an encoder is saved as the folder and graph of its bundle."""
    own = {
        LameTextEmbedder: {"query_instruction": "Find it."},
        LameDocumentEmbedder: {"meta_fields_to_embed": ["title"], "embedding_separator": " "},
        LameImageDocumentEmbedder: {"file_path_meta_field": "path", "root_path": "pictures"},
    }[kind]
    shared = {"load_options": {"threads": 1}, "encode_options": {"truncate_dim": 8}}
    saved = kind(folder, **shared, **own).to_dict()
    assert saved["init_parameters"] == {"model": str(folder), **shared, **own}
    assert kind.from_dict(saved).to_dict() == saved
    parameters = kind(encoder).to_dict()["init_parameters"]
    assert (parameters["model"], parameters["load_options"]) == (str(folder), {"graph": "fp32"})
