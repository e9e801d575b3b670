"""A bundle in LangChain: the vectors are the encoder's, and a vector store retrieves with them."""

from __future__ import annotations

import asyncio
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from lame_runtime import BundleError, InputError
from lame_runtime.encoder import Encoder
from lame_runtime.integrations.langchain import LameEmbeddings
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from PIL import Image

TEXTS = ["digits that add up to seven", "digits that add up to nine", "the digit four"]


def test_vectors_are_those_of_the_encoder(roles: Encoder, pictures: list[str]) -> None:
    """Queries, documents and pictures have the instruction of their role."""
    embeddings = LameEmbeddings(roles)
    assert embeddings.embed_query(TEXTS[0]) == roles.encode_query(TEXTS[0])[0].tolist()
    assert embeddings.embed_documents(TEXTS) == roles.encode_document(TEXTS).tolist()
    expected = roles.encode_document([Path(name) for name in pictures]).tolist()
    assert embeddings.embed_images(pictures) == expected
    assert embeddings.embed_documents([]) == embeddings.embed_images([]) == []


def test_a_picture_is_a_path_bytes_a_file_or_an_image(
    encoder: Encoder, pictures: list[str]
) -> None:
    """One picture gives one vector; a list by the name that Chroma uses gives a list."""
    embeddings, path = LameEmbeddings(encoder), Path(pictures[0])
    data = path.read_bytes()
    expected = encoder.encode_document(path)[0].tolist()
    for source in (str(path), path, data, BytesIO(data), Image.open(path)):
        assert embeddings.embed_image(source) == expected
    assert embeddings.embed_image(uris=pictures) == embeddings.embed_images(pictures)


def test_the_asynchronous_methods_return_the_same(roles: Encoder, pictures: list[str]) -> None:
    """Also when they run at the same time."""
    embeddings = LameEmbeddings(roles)

    async def run() -> list[object]:
        return await asyncio.gather(
            embeddings.aembed_query(TEXTS[0]),
            embeddings.aembed_documents(TEXTS),
            embeddings.aembed_images(pictures),
            embeddings.aembed_image(pictures[1]),
        )

    images = embeddings.embed_images(pictures)
    assert asyncio.run(run()) == [
        embeddings.embed_query(TEXTS[0]),
        embeddings.embed_documents(TEXTS),
        images,
        images[1],
    ]


def test_errors_are_those_of_the_encoder(
    encoder: Encoder, pictures: list[str], tmp_path: Path
) -> None:
    """One line with the index and the name; other pictures embed as before."""
    embeddings = LameEmbeddings(encoder)
    with pytest.raises(InputError, match=r"^input 1: none\.png: no such file; check the path$"):
        embeddings.embed_images([pictures[0], "none.png"])
    with pytest.raises(InputError, match=r"^input 0: the given bytes: not a picture"):
        asyncio.run(embeddings.aembed_image(b"no picture"))
    assert len(embeddings.embed_images(pictures)) == len(pictures)
    with pytest.raises(BundleError, match="none"):
        LameEmbeddings(tmp_path / "none")


def test_a_vector_store_finds_what_the_encoder_finds(
    roles: Encoder, folder: Path, pictures: list[str]
) -> None:
    """The store's order and scores are those of the cosines, for texts and for pictures."""
    embeddings = LameEmbeddings(roles)
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(text, id=text) for text in TEXTS])
    hits = store.similarity_search_with_score(TEXTS[1], k=3)
    cosines = roles.similarity(roles.encode_query(TEXTS[1]), roles.encode_document(TEXTS))[0]
    order = np.argsort(-cosines)
    assert [document.page_content for document, _ in hits] == [TEXTS[row] for row in order]
    assert [score for _, score in hits] == pytest.approx(cosines[order].tolist(), abs=1e-6)
    # a picture finds itself
    rows = embeddings.embed_images(pictures)
    for path, row in zip(pictures, rows, strict=True):
        store.store[path] = {"id": path, "vector": row, "text": path, "metadata": {}}
    assert store.similarity_search_by_vector(rows[2], k=1)[0].page_content == pictures[2]


def test_a_pickle_embeds_the_same(folder: Path) -> None:
    """So that other processes, which load the bundle again, can use it."""
    embeddings = LameEmbeddings(folder, encode_options={"truncate_dim": 8})
    again = pickle.loads(pickle.dumps(embeddings))
    assert again.embed_query(TEXTS[0]) == embeddings.embed_query(TEXTS[0])
