"""A bundle as the embedding of LlamaIndex (`pip install 'lame-runtime[llama-index]'`).

    from lame_runtime.integrations.llama_index import LameMultiModalEmbedding

    index = VectorStoreIndex(nodes, embed_model=LameMultiModalEmbedding("bundle"))

The base class gives the public methods (`get_query_embedding`, `get_text_embedding_batch`,
`get_image_embedding_batch`, …), which report to LlamaIndex's callbacks and split lists by
`embed_batch_size`; the index in an error's message counts within such a batch.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError
from lame_runtime.integrations.framework_encoder import FrameworkEncoder, Rows, not_installed
from lame_runtime.options import EncodeKeywords, LoadKeywords

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.embeddings import MultiModalEmbedding
    from llama_index.core.schema import ImageType
except ImportError as error:
    raise not_installed("llama-index-core", "llama-index", error) from None

_ARGUMENTS = ("load_options", "encode_options", "query_instruction")


class LameMultiModalEmbedding(MultiModalEmbedding):
    """Embeds queries, texts and pictures for LlamaIndex.

    Pictures are paths, `data:` URIs or open files, and have the role "document". The asynchronous
    methods run in a thread. Errors are those of `Encoder.encode`. `to_dict`, `from_dict` and
    `pickle` save the arguments and load the bundle again; an `Encoder` is saved as the folder and
    graph of its bundle.

    Args:
        model: a bundle's folder, which is loaded at once, or a loaded `Encoder`.
        load_options: fields of `LoadOptions`, such as `{"graph": "int8-cpu"}`.
        encode_options: fields of `EncodeOptions` for every call, such as `{"truncate_dim": 64}`.
        query_instruction: replaces the contract's instruction for queries.
        fields: fields of LlamaIndex's `BaseEmbedding`, such as `embed_batch_size`.

    Raises:
        BundleError: the bundle is damaged, incomplete or of another format.
        BackendError: the backend is not available.
        UsageError: an option is out of range or not taken here.
    """

    # fields of simple types only, so that pydantic can write and read them
    model: str = Field(description="The folder of the bundle.")
    load_options: dict[str, Any] = Field(description="Fields of LoadOptions.")
    encode_options: dict[str, Any] = Field(description="Fields of EncodeOptions.")
    query_instruction: str | None = Field(description="Instruction for queries.")
    revision: str = Field(description="Hash of the bundle's manifest; always computed.")
    # that of `Encoder.encode`, which splits larger batches itself
    embed_batch_size: int = Field(default=32, description="Inputs per call.", gt=0, le=2048)

    # private attributes are not saved
    _model: FrameworkEncoder = PrivateAttr()

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        load_options: LoadKeywords | None = None,
        encode_options: EncodeKeywords | None = None,
        query_instruction: str | None = None,
        **fields: Any,
    ) -> None:
        shared = FrameworkEncoder(model, load_options, encode_options, query_instruction)
        # LlamaIndex stores both under the text alone
        if fields.get("embeddings_cache") is not None and shared.has_roles:
            raise UsageError(
                "`embeddings_cache` mixes up queries and documents, which this bundle embeds "
                "differently; leave it out"
            )
        # an ingestion pipeline finds its cache by the fields, so the bundle's hash is one
        own = {"model": shared.model, "revision": shared.revision}
        own |= {name: getattr(shared, name) for name in _ARGUMENTS}
        super().__init__(**{"model_name": shared.name, **fields, **own})
        self._model = shared

    @classmethod
    def class_name(cls) -> str:
        """Returns the name that LlamaIndex saves and reports."""
        return "LameMultiModalEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._model.queries([query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._model.documents([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> Rows:
        return self._model.documents(texts)

    def _get_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return self._model.pictures([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> Rows:
        return self._model.pictures(img_file_paths)

    # in threads, because the default of the base class would hold up the event loop
    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> Rows:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> Rows:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)
