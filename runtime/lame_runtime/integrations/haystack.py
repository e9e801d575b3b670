"""A bundle as embedders of Haystack (`pip install 'lame-runtime[haystack]'`).

    from lame_runtime.integrations.haystack import LameDocumentEmbedder, LameTextEmbedder

    pipeline.add_component("embedder", LameTextEmbedder("bundle"))

`LameTextEmbedder` is for queries, `LameDocumentEmbedder` for the texts of documents, and
`LameImageDocumentEmbedder` for documents that name a picture. An asynchronous pipeline runs them in
threads. `Pipeline.load` wants to be told that it may load this module
(`allowed_modules=["lame_runtime.integrations.haystack"]`). Haystack itself reports pipelines to its
makers unless `HAYSTACK_TELEMETRY_ENABLED` is "False"; these embedders send nothing.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError, UsageError
from lame_runtime.integrations.framework_encoder import FrameworkEncoder, Rows, not_installed
from lame_runtime.options import EncodeKeywords, LoadKeywords

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise not_installed("haystack-ai", "haystack", error) from None


class LameEmbedder:
    """Loads and saves the bundle of the three embedders; it is no component itself.

    All three take `model`, a bundle's folder or a loaded `Encoder`, which is saved as the folder
    and graph of its bundle; `load_options`, such as `{"graph": "int8-cpu"}`; and `encode_options`
    for every call, such as `{"truncate_dim": 64}`. Options that are out of range or not taken here
    raise `UsageError` at once.
    """

    # no `__init__`: `component` makes the class again, in which `super()` does not work

    _model: FrameworkEncoder

    def warm_up(self) -> None:
        """Loads the bundle; raises the errors of `Encoder.load`. `run` does so if needed."""
        # a pipeline calls this before it runs, so that no query waits for the weights
        _ = self._model.encoder

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments that make the component again, for a pipeline's file."""
        saved: dict[str, Any] = default_to_dict(self, **self._model.saved(), **self._own())
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Makes the component from the result of `to_dict`."""
        return default_from_dict(cls, data)

    def _own(self) -> dict[str, Any]:
        """Returns the arguments that only this component has."""
        return {}


@component
class LameTextEmbedder(LameEmbedder):
    """Embeds a text with the role "query".

    Args:
        model: a bundle's folder, or a loaded `Encoder`.
        load_options: fields of `LoadOptions`.
        encode_options: fields of `EncodeOptions`.
        query_instruction: replaces the contract's instruction for queries.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        load_options: LoadKeywords | None = None,
        encode_options: EncodeKeywords | None = None,
        query_instruction: str | None = None,
    ) -> None:
        self._model = FrameworkEncoder(model, load_options, encode_options, query_instruction)

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Returns `{"embedding": P floats}`; raises the errors of `Encoder.encode`."""
        return {"embedding": self._model.queries([text])[0]}

    def _own(self) -> dict[str, Any]:
        return {"query_instruction": self._model.query_instruction}


@component
class LameDocumentEmbedder(LameEmbedder):
    """Embeds the texts of documents with the role "document".

    Args:
        model: a bundle's folder, or a loaded `Encoder`.
        load_options: fields of `LoadOptions`.
        encode_options: fields of `EncodeOptions`.
        meta_fields_to_embed: fields of `meta` that are put before the text.
        embedding_separator: stands between these and the text.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        load_options: LoadKeywords | None = None,
        encode_options: EncodeKeywords | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        self._model = FrameworkEncoder(model, load_options, encode_options)
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Returns `{"documents": …}`: copies whose `embedding` is set, P floats each.

        Raises:
            InputError: a document has no text; the message names its index.
        """
        _check(documents)
        return _embedded(documents, self._model.documents(map(self._text, documents)))

    def _text(self, document: Document) -> str:
        values = [document.meta.get(name) for name in self.meta_fields_to_embed]
        # as in Haystack's own embedders: a document need not have every field
        parts = [str(value) for value in values if value is not None]
        return self.embedding_separator.join([*parts, document.content or ""])

    def _own(self) -> dict[str, Any]:
        return {
            "meta_fields_to_embed": self.meta_fields_to_embed,
            "embedding_separator": self.embedding_separator,
        }


@component
class LameImageDocumentEmbedder(LameEmbedder):
    """Embeds the picture that each document's `meta` names, with the role "document".

    A PDF of several pages needs `meta["page_number"]`, which counts from 1.

    Args:
        model: a bundle's folder, or a loaded `Encoder`.
        load_options: fields of `LoadOptions`.
        encode_options: fields of `EncodeOptions`.
        file_path_meta_field: field of `meta` that holds the path.
        root_path: folder that relative paths start from; "" for the working directory.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        load_options: LoadKeywords | None = None,
        encode_options: EncodeKeywords | None = None,
        file_path_meta_field: str = "file_path",
        root_path: str = "",
    ) -> None:
        self._model = FrameworkEncoder(model, load_options, encode_options)
        self.file_path_meta_field = file_path_meta_field
        self.root_path = root_path

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Returns `{"documents": …}`: copies whose `embedding` is set, P floats each.

        Raises:
            InputError: a picture cannot be read, or a document names none; the message names its
                index.
        """
        _check(documents)
        sources = [self._source(index, document) for index, document in enumerate(documents)]
        return _embedded(documents, self._model.pictures(sources))

    def _source(self, index: int, document: Document) -> str:
        name = document.meta.get(self.file_path_meta_field)
        if not isinstance(name, str | os.PathLike) or not os.fspath(name):
            raise InputError(
                f"input {index}: `meta` has no {self.file_path_meta_field}: set it to the path "
                "of a picture"
            )
        path = str(Path(self.root_path, name))
        page = document.meta.get("page_number")
        # the number is also set for pages of other formats, which have no such names
        is_page = path.lower().endswith(".pdf") and page is not None
        return f"{path}#page={page}" if is_page else path

    def _own(self) -> dict[str, Any]:
        return {
            "file_path_meta_field": self.file_path_meta_field,
            "root_path": self.root_path,
        }


def _check(documents: Any) -> None:
    # a call outside a pipeline is not checked by Haystack
    if not isinstance(documents, list) or not all(isinstance(row, Document) for row in documents):
        raise UsageError("`documents` is not a list of Documents; LameTextEmbedder takes a text")


def _embedded(documents: list[Document], rows: Rows) -> dict[str, list[Document]]:
    # copies, because other components of a pipeline may hold the same documents
    pairs = zip(documents, rows, strict=True)
    return {"documents": [replace(document, embedding=row) for document, row in pairs]}
