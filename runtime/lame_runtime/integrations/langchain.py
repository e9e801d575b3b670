"""A bundle as the embeddings of LangChain (`pip install 'lame-runtime[langchain]'`).

    from lame_runtime.integrations.langchain import LameEmbeddings

    store = InMemoryVectorStore(LameEmbeddings("bundle"))

Any vector store takes it. LangChain's own interface has texts only; `embed_image` and
`embed_images` are the names that embedders of its community and the stores for pictures use.
"""

from __future__ import annotations

import os
from typing import Any, overload

from lame_runtime.contract.media.images import ImageSource
from lame_runtime.encoder import Encoder
from lame_runtime.integrations.framework_encoder import FrameworkEncoder, Rows, not_installed
from lame_runtime.options import EncodeKeywords, LoadKeywords

try:
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables.config import run_in_executor
except ImportError as error:
    raise not_installed("langchain-core", "langchain", error) from None


class LameEmbeddings(Embeddings):
    """Embeds queries, documents and pictures for LangChain.

    The asynchronous methods run in a thread. Errors are those of `Encoder.encode`.

    Args:
        model: a bundle's folder, which is loaded at once, or a loaded `Encoder`.
        load_options: fields of `LoadOptions`, such as `{"graph": "int8-cpu"}`.
        encode_options: fields of `EncodeOptions` for every call, such as `{"truncate_dim": 64}`.
        query_instruction: replaces the contract's instruction for queries.

    Raises:
        BundleError: the bundle is damaged, incomplete or of another format.
        BackendError: the backend is not available.
        UsageError: an option is out of range or not taken here.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        load_options: LoadKeywords | None = None,
        encode_options: EncodeKeywords | None = None,
        query_instruction: str | None = None,
    ) -> None:
        self._model = FrameworkEncoder(model, load_options, encode_options, query_instruction)
        # loads the bundle, so that a wrong folder is reported here
        _ = self.encoder

    @property
    def encoder(self) -> Encoder:
        """The encoder that embeds."""
        return self._model.encoder

    def embed_documents(self, texts: list[str]) -> Rows:
        """Embeds texts with the role "document": one list of P floats per text."""
        return self._model.documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Embeds a text with the role "query": P floats."""
        # a list, because anything but a text would otherwise count as many inputs
        return self._model.queries([text])[0]

    def embed_images(self, images: list[ImageSource]) -> Rows:
        """Embeds pictures with the role "document": one list of P floats per picture.

        Args:
            images: paths, `data:` URIs, bytes, open files or PIL pictures.
        """
        return self._model.pictures(images)

    @overload
    def embed_image(self, uris: list[ImageSource]) -> Rows: ...

    @overload
    def embed_image(self, uris: ImageSource) -> list[float]: ...

    def embed_image(self, uris: Any) -> Any:
        """Embeds one picture: P floats. A list of pictures is embedded as by `embed_images`.

        Chroma's `add_images` passes a list, by this name.
        """
        # two conventions share this name: one picture, and Chroma's list
        return self.embed_images(uris) if isinstance(uris, list) else self.embed_images([uris])[0]

    async def aembed_documents(self, texts: list[str]) -> Rows:
        """Runs `embed_documents` in a thread."""
        # that of LangChain, so that its context variables reach the thread
        rows: Rows = await run_in_executor(None, self.embed_documents, texts)
        return rows

    async def aembed_query(self, text: str) -> list[float]:
        """Runs `embed_query` in a thread."""
        row: list[float] = await run_in_executor(None, self.embed_query, text)
        return row

    async def aembed_images(self, images: list[ImageSource]) -> Rows:
        """Runs `embed_images` in a thread."""
        rows: Rows = await run_in_executor(None, self.embed_images, images)
        return rows

    async def aembed_image(self, image: ImageSource) -> list[float]:
        """Embeds one picture in a thread: P floats."""
        return (await self.aembed_images([image]))[0]
