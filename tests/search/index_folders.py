"""Makes small indexes of vectors with a known structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.contract.vectors import Precision, quantize
from lame_runtime.search import Index
from lame_runtime.search.index_writer import write_index
from lame_runtime.search.sources.array_source import ArraySource

Floats = npt.NDArray[np.float32]


def unit_vectors(count: int, dim: int, seed: int = 0) -> Floats:
    """Returns vectors whose variance falls off as that of learned ones does: float32 (n, dim)."""
    generator = np.random.default_rng(seed)
    spectrum = 1 / np.sqrt(1 + np.arange(dim))
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0]
    rows = (generator.normal(size=(count, dim)) * spectrum) @ turned
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def vector_facts(dim: int, precision: Precision = "float32", largest: float = 1.0) -> VectorFacts:
    """Returns facts of vectors of no bundle."""
    limits = ((-largest,) * dim, (largest,) * dim) if precision in ("int8", "uint8") else None
    return VectorFacts("0" * 64, "fp32", "document", None, dim, precision, limits)


def made_index(
    folder: Path,
    vectors: Floats,
    precision: Precision = "float32",
    rows: list[dict[str, Any]] | None = None,
    prefix: int | None = None,
) -> Index:
    """Returns an index of vectors in a precision."""
    largest = float(np.abs(vectors).max())
    facts = vector_facts(vectors.shape[1], precision, largest)
    source = ArraySource(quantize(vectors, precision, largest), rows, facts)
    write_index(source, folder, prefix=prefix)
    return Index.open(folder)
