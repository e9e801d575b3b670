"""A bundle in LlamaIndex: the vectors are the encoder's, and an index retrieves with them."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import InputError, UsageError
from lame_runtime.encoder import Encoder
from lame_runtime.integrations.llama_index import LameMultiModalEmbedding
from llama_index.core import VectorStoreIndex
from llama_index.core.indices import MultiModalVectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

TEXTS = ["digits that add up to seven", "digits that add up to nine", "the digit four"]


def test_vectors_are_those_of_the_encoder(roles: Encoder, pictures: list[str]) -> None:
    """Queries, texts and pictures have the instruction of their role; batches change nothing."""
    embedding = LameMultiModalEmbedding(roles, embed_batch_size=2)
    documents = roles.encode_document(TEXTS).tolist()
    assert embedding.get_query_embedding(TEXTS[0]) == roles.encode_query(TEXTS[0])[0].tolist()
    assert embedding.get_text_embedding(TEXTS[0]) == documents[0]
    assert embedding.get_text_embedding_batch(TEXTS) == documents
    images = roles.encode_document([Path(name) for name in pictures]).tolist()
    assert embedding.get_image_embedding(pictures[0]) == images[0]
    assert embedding.get_image_embedding_batch(pictures) == images
    assert embedding.get_image_embedding(BytesIO(Path(pictures[1]).read_bytes())) == images[1]


def test_the_asynchronous_methods_return_the_same(roles: Encoder, pictures: list[str]) -> None:
    """Also when they run at the same time, and in batches."""
    embedding = LameMultiModalEmbedding(roles, embed_batch_size=2)

    async def run() -> list[Any]:
        return await asyncio.gather(
            embedding.aget_query_embedding(TEXTS[0]),
            embedding.aget_text_embedding(TEXTS[0]),
            embedding.aget_text_embedding_batch(TEXTS),
            embedding.aget_image_embedding(pictures[0]),
            embedding.aget_image_embedding_batch(pictures),
        )

    images = embedding.get_image_embedding_batch(pictures)
    assert asyncio.run(run()) == [
        embedding.get_query_embedding(TEXTS[0]),
        embedding.get_text_embedding(TEXTS[0]),
        embedding.get_text_embedding_batch(TEXTS),
        images[0],
        images,
    ]


def test_errors_are_those_of_the_encoder(encoder: Encoder, pictures: list[str]) -> None:
    """One line, not wrapped by pydantic or LlamaIndex."""
    embedding = LameMultiModalEmbedding(encoder)
    with pytest.raises(InputError, match=r"^input 1: none\.png: no such file; check the path$"):
        embedding.get_image_embedding_batch([pictures[0], "none.png"])
    with pytest.raises(InputError, match=r"^input 0: .*not a picture"):
        asyncio.run(embedding.aget_image_embedding(BytesIO(b"no picture")))
    with pytest.raises(UsageError, match="`truncate_dim` is 0"):
        LameMultiModalEmbedding(encoder, encode_options={"truncate_dim": 0})
    assert len(embedding.get_image_embedding_batch(pictures)) == len(pictures)


def scores(hits: list[NodeWithScore]) -> dict[str, float | None]:
    return {hit.node.node_id: hit.score for hit in hits}


def test_an_index_retrieves_what_the_encoder_finds(roles: Encoder) -> None:
    """Scores of the index are the cosines of the query with the texts."""
    nodes = [TextNode(text=text, id_=text) for text in TEXTS]
    index = VectorStoreIndex(nodes, embed_model=LameMultiModalEmbedding(roles))
    hits = index.as_retriever(similarity_top_k=3).retrieve(TEXTS[1])
    cosines = roles.similarity(roles.encode_query(TEXTS[1]), roles.encode_document(TEXTS))[0]
    expected = dict(zip(TEXTS, cosines.tolist(), strict=True))
    assert scores(hits) == pytest.approx(expected, abs=1e-6)
    assert hits[0].node.node_id == TEXTS[int(cosines.argmax())]


def test_an_index_of_texts_and_pictures_takes_one_embedding_for_both(
    roles: Encoder, pictures: list[str]
) -> None:
    """A text finds texts and pictures; a picture finds itself."""
    embedding = LameMultiModalEmbedding(roles)
    nodes = [TextNode(text=text, id_=text) for text in TEXTS]
    # as LlamaIndex's reader of folders makes them; nodes without text and metadata are left out
    nodes += [
        ImageNode(image_path=path, id_=path, metadata={"file_path": path}) for path in pictures
    ]
    index = MultiModalVectorStoreIndex(nodes, embed_model=embedding, image_embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=3, image_similarity_top_k=5)
    query = roles.encode_query(TEXTS[1])
    images = roles.encode_document([Path(path) for path in pictures])
    cosines = roles.similarity(query, np.concatenate([roles.encode_document(TEXTS), images]))[0]
    expected = dict(zip([*TEXTS, *pictures], cosines.tolist(), strict=True))
    assert scores(retriever.retrieve(TEXTS[1])) == pytest.approx(expected, abs=1e-6)
    assert retriever.image_to_image_retrieve(pictures[2])[0].node.node_id == pictures[2]


def test_it_is_saved_as_its_arguments(encoder: Encoder, folder: Path) -> None:
    """`to_dict` and a pickle load the bundle again; an encoder is saved as folder and graph."""
    embedding = LameMultiModalEmbedding(
        encoder, encode_options={"truncate_dim": 8}, query_instruction="Find it."
    )
    saved = embedding.to_dict()
    assert saved["model"] == str(folder)
    assert saved["load_options"] == {"graph": encoder.graph}
    assert saved["class_name"] == "LameMultiModalEmbedding"
    assert len(saved["revision"]) == 64
    assert saved["model_name"] == "lame/tiny-bundle-fp32"
    vector = embedding.get_query_embedding(TEXTS[0])
    for again in (
        LameMultiModalEmbedding.from_dict(saved),
        LameMultiModalEmbedding.from_json(embedding.to_json()),
        pickle.loads(pickle.dumps(embedding)),
    ):
        assert again.get_query_embedding(TEXTS[0]) == vector
    # an encoder without a bundle embeds as well, but is not saved by its weights
    bare = LameMultiModalEmbedding(replace(encoder, bundle=None))
    assert bare.get_text_embedding(TEXTS[0]) == encoder.encode(TEXTS[0])[0].tolist()


def test_an_ingestion_pipeline_embeds_nodes(encoder: Encoder) -> None:
    """Its cache, which is found by the fields of the embedding, gives the same vectors."""
    pipeline = IngestionPipeline(transformations=[LameMultiModalEmbedding(encoder)])
    nodes = [TextNode(text=text) for text in TEXTS]
    expected = encoder.encode_document(TEXTS).tolist()
    for _ in range(2):
        assert [node.embedding for node in pipeline.run(nodes=nodes)] == expected


def test_a_cache_that_mixes_up_roles_is_refused(roles: Encoder, encoder: Encoder) -> None:
    """LlamaIndex's cache has one vector per text; without instructions that is right."""
    with pytest.raises(UsageError, match="`embeddings_cache` mixes up queries and documents"):
        LameMultiModalEmbedding(roles, embeddings_cache=SimpleKVStore())
    cached = LameMultiModalEmbedding(encoder, embeddings_cache=SimpleKVStore())
    text = cached.get_text_embedding_batch(TEXTS)[0]
    assert cached.get_query_embedding(TEXTS[0]) == text == encoder.encode(TEXTS[0])[0].tolist()
