"""`FrameworkEncoder`: what the embedders of LangChain, LlamaIndex and Haystack have in common.

The frameworks want lists of Python floats, embed queries and documents by different methods, and
save an embedder as the arguments that make it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.arguments import described, folder_path, optional_text
from lame_runtime.contract.media.images import ImageSource
from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError, first_line
from lame_runtime.inputs import InputLike
from lame_runtime.options import EncodeKeywords, EncodeOptions, LoadKeywords, LoadOptions

Rows = list[list[float]]

_REFUSED = {
    "role": "the embedder sets the role of queries and documents",
    "prompt_name": "the embedder sets the role of queries and documents",
    # it would be the instruction of documents as well
    "instruction": "use `query_instruction`",
    "prompt": "use `query_instruction`",
    "precision": "frameworks take vectors as lists of floats",
}
"""Options of `encode` that an embedder does not take, and why."""


class FrameworkEncoder:
    """An encoder that is loaded when it is first used, and returns lists of floats.

    Any number of threads may use it. A pickle of it holds its arguments, so another process loads
    the bundle again; a copy is the object itself.

    Args:
        model: a bundle's folder, or a loaded `Encoder`.
        load_options: fields of `LoadOptions`, for a folder.
        encode_options: fields of `EncodeOptions` for every call, except those of roles and
            instructions, and `precision`.
        query_instruction: replaces the contract's instruction for queries; documents keep theirs.

    Attributes:
        model: the bundle's folder as it was given; "" for an `Encoder` without a bundle.
        load_options: for an `Encoder`, only its graph.
        encode_options: as given.
        query_instruction: as given.

    Raises:
        UsageError: an option is out of range or not taken here.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        load_options: LoadKeywords | None = None,
        encode_options: EncodeKeywords | None = None,
        query_instruction: str | None = None,
    ) -> None:
        self.load_options: Any = _keywords("load_options", load_options)
        self.encode_options: Any = _keywords("encode_options", encode_options)
        self.query_instruction = optional_text("query_instruction", query_instruction)
        for name in set(_REFUSED) & set(self.encode_options):
            raise UsageError(f"`{name}` of `encode_options`: {_REFUSED[name]}; leave it out")
        # checked now, because a pipeline may load the bundle hours later
        LoadOptions(**self.load_options)
        EncodeOptions(**self.encode_options)
        self._lock = Lock()
        self._encoder: Encoder | None = None
        if not isinstance(model, Encoder):
            # absolute, because the working directory may change before the bundle is loaded
            self._folder = folder_path("model", model)
            self.model = os.fspath(model)
            return
        if self.load_options:
            raise UsageError(
                "`load_options` are for a bundle's folder, but `model` is an Encoder: "
                "give them to `Encoder.load`"
            )
        self._encoder = model
        self.model = "" if model.bundle is None else str(model.bundle.folder)
        # what decides on the vectors; threads and memory are the next machine's own
        self.load_options = {"graph": model.graph}

    @property
    def encoder(self) -> Encoder:
        """The encoder; the first use loads the bundle and raises the errors of `Encoder.load`."""
        # a lock, so that two threads of a pipeline do not load the weights twice
        with self._lock:
            if self._encoder is None:
                self._encoder = Encoder.load(self._folder, **self.load_options)
            return self._encoder

    @property
    def name(self) -> str:
        """The name of folder and graph, as in `mteb`'s results."""
        bundle = self.encoder.bundle
        folder = "model" if bundle is None else bundle.folder.resolve().name
        return f"lame/{folder}-{self.encoder.graph}"

    @property
    def revision(self) -> str:
        """The hash of the manifest; "" for an encoder without a bundle."""
        bundle = self.encoder.bundle
        return "" if bundle is None else bundle.manifest.sha256

    @property
    def has_roles(self) -> bool:
        """Whether one text has different vectors as a query and as a document."""
        roles = self.encoder.prompts
        query = roles.get("query") if self.query_instruction is None else self.query_instruction
        return (query or "") != (roles.get("document") or "")

    def queries(self, inputs: Iterable[InputLike]) -> Rows:
        """Embeds queries: n lists of P floats; raises the errors of `Encoder.encode`."""
        options = self.encode_options
        if self.query_instruction is not None:
            # a new dict, because documents must not have the instruction
            options = {**options, "instruction": self.query_instruction}
        return _rows(self.encoder.encode_query(inputs, **options))

    def documents(self, inputs: Iterable[InputLike]) -> Rows:
        """Embeds documents: n lists of P floats; raises the errors of `Encoder.encode`."""
        return _rows(self.encoder.encode_document(inputs, **self.encode_options))

    def pictures(self, sources: Iterable[ImageSource]) -> Rows:
        """Embeds pictures as documents, each a path, `data:` URI, bytes, open file or PIL picture.

        Returns:
            n lists of P floats.

        Raises:
            InputError: a picture cannot be read; the message names it and its index.
        """
        # a dict, because a `str` alone is a text
        return self.documents([{"image": source} for source in sources])

    def saved(self) -> dict[str, Any]:
        """Returns model and options, of types that JSON and YAML have.

        Raises:
            UsageError: it was made from an encoder without a bundle.
        """
        if not self.model:
            raise UsageError("an Encoder without a bundle cannot be saved: use `Encoder.load`")
        # the only option that may be a path
        engines = self.load_options.get("engines")
        paths = {"engines": os.fspath(engines)} if engines is not None else {}
        return {
            "model": self.model,
            "load_options": {**self.load_options, **paths},
            "encode_options": dict(self.encode_options),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        saved = self.saved()
        return FrameworkEncoder, (*saved.values(), self.query_instruction)

    def __deepcopy__(self, memo: object) -> FrameworkEncoder:
        # frameworks copy their components, and a copy of the weights would serve nobody
        return self


def not_installed(package: str, extra: str, error: ImportError) -> ImportError:
    """Returns the error of an adapter whose framework cannot be imported: one line."""
    return ImportError(
        f"{package} cannot be imported ({first_line(error)}): pip install 'lame-runtime[{extra}]'"
    )


def _keywords(name: str, options: Any) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"`{name}` is {described(options)}: give a dict")
    return dict(options or {})


def _rows(vectors: npt.NDArray[np.float32]) -> Rows:
    # float64 of every value, which turns back into the same float32
    rows: Rows = vectors.tolist()
    return rows
