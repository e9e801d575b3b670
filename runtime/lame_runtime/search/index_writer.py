"""Writes an index: a folder that appears under its name when it is complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.contract.vectors import unit_rows
from lame_runtime.errors import InputError, UsageError, shown
from lame_runtime.files.atomic import atomic_folder, require_new
from lame_runtime.search.hamming import pack_signs, words_of
from lame_runtime.search.index import PREFIX_FILE, SIGNS_FILE, VECTORS_FILE
from lame_runtime.search.index_facts import INDEX_FILE, ColumnKind, IndexFacts
from lame_runtime.search.scoring import decoded
from lame_runtime.search.storage.array_files import ArrayWriter
from lame_runtime.search.storage.column_writer import ColumnWriter

_LENGTH_TOLERANCE = 1e-3


class Source(Protocol):
    """Vectors and the columns beside them, read in batches."""

    facts: VectorFacts
    kinds: dict[str, ColumnKind]
    """Kind of each column, `id` first."""

    def batches(self) -> Iterator[tuple[npt.NDArray[Any], dict[str, list[Any]], int]]:
        """Yields vectors (m, width), the values of their rows, and the rows without a vector."""
        ...


def write_index(
    source: Source,
    target: Path,
    *,
    prefix: int | None = None,
    on_rows: Callable[[int], object] = lambda _: None,
) -> IndexFacts:
    """Writes an index.

    Args:
        source: vectors and columns.
        target: the folder to make.
        prefix: number of leading values to store once more, for `first_stage="prefix"`.
        on_rows: called with the number of rows of each batch, for progress.

    Raises:
        InputError: the source holds no vector, or one that is not of unit length.
        UsageError: `prefix` is not below the length of the vectors, or they are signs.
        StorageError: the target exists or cannot be written, or the source cannot be read.
    """
    kind = source.facts
    _check_prefix(prefix, kind)
    # before the work, too
    require_new(target)
    left_out = rows = 0
    with atomic_folder(target) as folder:
        with contextlib.ExitStack() as stack:
            vectors_file = stack.enter_context(
                ArrayWriter(folder / VECTORS_FILE, kind.dtype, kind.width)
            )
            signs_file = stack.enter_context(
                ArrayWriter(folder / SIGNS_FILE, np.dtype(np.uint64), -(-kind.dim // 64))
            )
            prefix_file = None
            if prefix is not None:
                prefix_file = stack.enter_context(
                    ArrayWriter(folder / PREFIX_FILE, np.dtype(np.float32), prefix)
                )
            # open at the same time, since a batch brings values of all of them
            columns = {
                name: stack.enter_context(ColumnWriter(folder, place, name, column))
                for place, (name, column) in enumerate(source.kinds.items())
            }
            for vectors, values, without in source.batches():
                _check(vectors, kind, rows)
                vectors_file.append(vectors)
                signs_file.append(_signs(vectors, kind))
                if prefix_file is not None and prefix is not None:
                    prefix_file.append(unit_rows(decoded(vectors, kind)[:, :prefix]))
                # in step with the vectors: the number of a row is its place in every file
                for name, writer in columns.items():
                    writer.append(values[name])
                rows += len(vectors)
                left_out += without
                on_rows(len(vectors) + without)
        if not rows:
            raise InputError(f"{shown(target)}: there is nothing to index, no row has a vector")
        facts = IndexFacts(
            vectors=kind,
            rows=rows,
            left_out=left_out,
            columns=[writer.facts for writer in columns.values()],
            # searches may run elsewhere, and thumbnails start from here
            root=os.fspath(Path.cwd()),
            prefix=prefix,
        )
        # last, so that a folder with it is complete
        (folder / INDEX_FILE).write_text(facts.to_json(), encoding="utf-8")
    return facts


def _check_prefix(prefix: int | None, kind: VectorFacts) -> None:
    if prefix is None:
        return
    if kind.precision in ("binary", "ubinary"):
        raise UsageError("`prefix` does not apply to signs, which are fast to search: leave it out")
    if not 1 <= prefix < kind.dim:
        raise UsageError(
            f"`prefix` is {prefix}: use 1 to {kind.dim - 1}, below the vectors' length"
        )


def _signs(vectors: npt.NDArray[Any], kind: VectorFacts) -> npt.NDArray[np.uint64]:
    # they are signs already, and need no decoding
    if kind.precision in ("binary", "ubinary"):
        packed = vectors.view(np.uint8)
        return words_of(packed if kind.precision == "ubinary" else packed ^ np.uint8(128))
    return pack_signs(decoded(vectors, kind))


def _check(vectors: npt.NDArray[Any], kind: VectorFacts, before: int) -> None:
    """Raises `InputError` for a vector that would get senseless scores."""
    # the lengths of rounded values tell little, and those of signs nothing
    if kind.precision != "float32":
        return
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    # a comparison with NaN is false
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))
    if len(wrong):
        raise InputError(
            f"vector {before + int(wrong[0])} is not finite or not of unit length: "
            "index what `embed` wrote, or normalize the vectors"
        )
