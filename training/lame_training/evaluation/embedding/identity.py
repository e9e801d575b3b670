"""Hashes everything that an embedding depends on, so that nothing has to be embedded twice.

That is the model and what runs it (`model_identity`), and the content of the input
(`ContentHasher`). File names and places do not count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.bundle.manifest import sha256_file
from lame_runtime.contract.prompts import Input
from PIL import Image

CHECKPOINT_FILES = ("model.safetensors", "contract.json", "tokenizer.json", "config.json")
"""Files of a checkpoint that its embeddings depend on, in addition to those of an adapter."""


def digest(value: Any) -> str:
    """Returns the sha256, in hex digits, of a JSON value's canonical text."""
    # Keys are sorted, so the hash does not depend on how a dictionary was filled. Caches and
    # results on disk hold these hashes: another serialization would make all of them useless.
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    # half an emoji in a name or a reason has no UTF-8, and must not stop the hash of its task
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def model_identity(model: Path, graph: str, backend: str) -> str:
    """Returns a hash of a model and of what runs it.

    It covers a checkpoint's weights, contract and tokenizer, or a bundle's manifest.

    Args:
        model: folder of the checkpoint or bundle.
        graph: name of the graph that runs; "pytorch" for a checkpoint.
        backend: name of the backend with its version, since another engine rounds differently.
    """
    if (model / "manifest.json").is_file():
        # The manifest lists the hashes of all other files of the bundle.
        paths = [model / "manifest.json"]
    else:
        adapter = sorted(path for path in (model / "adapter").glob("*") if path.is_file())
        paths = [*(model / name for name in CHECKPOINT_FILES), *adapter]
    files = [(path.relative_to(model).as_posix(), sha256_file(path)) for path in paths]
    return digest([graph, backend, *files])


class ContentHasher:
    """Hashes inputs by their content: texts, and the bytes of pictures and videos.

    Every file is read once per hasher, so files must not change during a run.
    """

    def __init__(self) -> None:
        # By path: the same file may be part of many inputs, and reading it is what takes time.
        self._file_hashes: dict[str, str] = {}

    def key(self, item: Input) -> str:
        """Returns the sha256 of an input's content, in hex digits.

        Raises:
            ValueError: a picture or video cannot be read.
        """
        # Parts are tagged by kind: a picture and a video of the same file are different inputs.
        parts = [
            ["text", part]
            if isinstance(part, str)
            else [type(part).__name__, self._source_hash(part.source)]
            for part in item.given_parts
        ]
        # The frame rate enters a video's positions, so the same frames can give another vector.
        rates = [getattr(part, "fps", None) for part in item.given_parts]
        return digest([item.instruction, parts, rates])

    def _source_hash(self, source: Any) -> Any:
        """Returns a JSON value that stands for the content of a picture's or video's source."""
        if isinstance(source, bytes):
            return hashlib.sha256(source).hexdigest()
        if isinstance(source, Image.Image | np.ndarray):
            pixels = np.asarray(source)
            # Bytes alone do not tell a 2×8 picture from an 8×2 one.
            return [
                hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest(),
                str(pixels.dtype),
                list(pixels.shape),
            ]
        if isinstance(source, str | os.PathLike):
            # `a.pdf#page=2` is a page of a PDF file.
            path, _, page = os.fspath(source).partition("#page=")
            return [self._file_hash(path), page]
        if isinstance(source, Sequence):
            return [self._source_hash(frame) for frame in source]
        raise ValueError(f"a {type(source).__name__} is not a picture or video")

    def _file_hash(self, path: str) -> str:
        if path not in self._file_hashes:
            try:
                self._file_hashes[path] = sha256_file(Path(path))
            except OSError as error:
                raise ValueError(f"{path}: {error.strerror}") from None
        return self._file_hashes[path]
