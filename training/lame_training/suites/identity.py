"""What an embedding depends on, as hashes: the model, and the content of the input; so that nothing is embedded twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.contract.manifest import sha256_file
from lame_runtime.contract.prompts import Input
from PIL import Image

CHECKPOINT_FILES = ("model.safetensors", "contract.json", "tokenizer.json", "config.json")


def digest(value: Any) -> str:
    """sha256 of a JSON value's canonical text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def model_identity(model: Path, graph: str, backend: str) -> str:
    """sha256 over a checkpoint's weights, contract and tokenizer, or a bundle's manifest (which lists its files' hashes).

    Args:
        model: the folder.
        graph: which graph runs; "pytorch" for a checkpoint.
        backend: what runs it, version included, since another engine rounds differently.
    """
    if (model / "manifest.json").is_file():
        paths = [model / "manifest.json"]
    else:
        adapter = sorted(path for path in (model / "adapter").glob("*") if path.is_file())
        paths = [*(model / name for name in CHECKPOINT_FILES), *adapter]
    return digest([graph, backend, *((path.relative_to(model).as_posix(), sha256_file(path)) for path in paths)])


class ContentHasher:
    """Hashes inputs by what is in them: texts, and the bytes of pictures and videos; every file is read once."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}

    def key(self, item: Input) -> str:
        """sha256 of an input.

        Raises:
            ValueError: a picture or video cannot be read.
        """
        parts = [["text", part] if isinstance(part, str) else [type(part).__name__, self._source(part.source)] for part in item.parts]
        rates = [getattr(part, "fps", None) for part in item.parts]
        return digest([item.instruction, parts, rates])

    def _source(self, source: Any) -> Any:
        if isinstance(source, bytes):
            return hashlib.sha256(source).hexdigest()
        if isinstance(source, Image.Image | np.ndarray):
            pixels = np.asarray(source)
            return [hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest(), str(pixels.dtype), list(pixels.shape)]
        if isinstance(source, str | os.PathLike):
            path, _, page = os.fspath(source).partition("#page=")  # of a PDF
            return [self._file(path), page]
        if isinstance(source, Sequence):
            return [self._source(each) for each in source]
        raise ValueError(f"a {type(source).__name__} is no picture or video")

    def _file(self, path: str) -> str:
        if path not in self._files:
            try:
                self._files[path] = sha256_file(Path(path))
            except OSError as error:
                raise ValueError(f"{path}: {error.strerror}") from None
        return self._files[path]
