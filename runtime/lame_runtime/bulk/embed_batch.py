"""Batches of columns → batches with vectors, for any engine that maps batches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lame_runtime.bulk.arrow_modules import arrow
from lame_runtime.bulk.blocks import block_table, facts_of
from lame_runtime.bulk.row_vectors import embed_rows
from lame_runtime.bulk.source.columns import ColumnNames, table_rows
from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError
from lame_runtime.isolation.probes import warm_up
from lame_runtime.options import EncodeKeywords, EncodeOptions, LoadKeywords


class EmbedBatch:
    """Embeds batches of columns. Paths or bytes come in; decoding happens here.

    An object can be pickled, and loads its bundle again where it is unpickled. One process calls
    it from one thread.

    Args:
        bundle: the folder that `lame-export` wrote, on every machine at this path.
        encoding: options of `Encoder.encode`, such as `role` and `precision`.
        loading: options of `Encoder.load`, such as `backend` and `threads`.
        columns: the columns that hold inputs and ids; by default those of the usual names.
        root: folder of relative paths; None takes the worker's own.

    Raises:
        BundleError, BackendError, UsageError: as `Encoder.load`.
        ProofError: this machine does not give the bundle's vectors.

    Example:
        >>> dataset.map_batches(
        ...     EmbedBatch,
        ...     fn_constructor_kwargs={"bundle": "bundle", "encoding": {"role": "document"}},
        ...     batch_format="pyarrow",
        ...     batch_size=256,
        ...     compute=ray.data.ActorPoolStrategy(size=4),
        ... )
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        encoding: EncodeKeywords | None = None,
        loading: LoadKeywords | None = None,
        columns: ColumnNames | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        # what is pickled: a loaded encoder holds graphs and threads
        self._arguments = (os.fspath(bundle), encoding, loading, columns, root)
        self._options = EncodeOptions(**(encoding or {}))
        self._columns = columns or ColumnNames()
        self._root = None if root is None else Path(root)
        self._encoder = Encoder.load(bundle, **(loading or {}))
        # a worker of a cluster may differ from the machine that the bundle was tried on
        warm_up(self._encoder)
        self.facts: VectorFacts = facts_of(self._encoder, self._options)

    def __call__(self, batch: Any) -> Any:
        """Embeds a batch.

        Args:
            batch: a dict of columns (lists or arrays), a `pyarrow.Table` or `RecordBatch`, or a
                `pandas.DataFrame`.

        Returns:
            A batch of the same kind with `id`, the columns that are kept, `vector` and `error`, as
            in `vector_table`; a row that cannot be embedded has no vector and an error.

        Raises:
            BackendError, ProofError: the backend fails, whatever the row.
            InputError: a column is missing.
            UsageError: the batch is of another type.
        """
        values, kind = _columns(batch)
        # a missing column would be an error in every row
        self._columns.check(list(values), "the batch")
        rows = table_rows(values, self._columns, self._root)
        blocks = list(embed_rows(self._encoder, rows, self._options))
        if not blocks:
            blocks = list(self._empty())
        table = block_table(blocks, self.facts)
        # engines want back what they gave
        if kind == "table":
            return table
        if kind == "batch":
            return table.combine_chunks().to_batches()[0]
        return table.to_pandas() if kind == "frame" else table.to_pydict()

    # graphs cannot be pickled, so the copy loads them where it arrives
    def __reduce__(self) -> tuple[Any, ...]:
        return _load, self._arguments

    def close(self) -> None:
        """Releases the graphs."""
        self._encoder.close()

    def _empty(self) -> Any:
        # engines ask for the columns of an empty batch
        import numpy as np

        from lame_runtime.bulk.row_vectors import Block

        yield Block([], np.empty((0, self.facts.width), self.facts.dtype), [])


def _load(bundle: str, encoding: Any, loading: Any, columns: Any, root: Any) -> EmbedBatch:
    return EmbedBatch(bundle, encoding=encoding, loading=loading, columns=columns, root=root)


def _columns(batch: Any) -> tuple[dict[str, Any], str]:
    """Returns the columns of a batch as lists, and its kind."""
    pa = arrow()
    if isinstance(batch, pa.Table):
        return batch.to_pydict(), "table"
    if isinstance(batch, pa.RecordBatch):
        return batch.to_pydict(), "batch"
    # by its methods, because pandas is not imported for those who do not use it
    if hasattr(batch, "to_dict") and hasattr(batch, "columns"):
        return {str(name): batch[name].tolist() for name in batch.columns}, "frame"
    if isinstance(batch, dict):
        lists = {
            str(name): value.tolist() if hasattr(value, "tolist") else list(value)
            for name, value in batch.items()
        }
        return lists, "dict"
    raise UsageError(
        f"a batch cannot be a {type(batch).__name__}: give a dict of columns, a pyarrow table or "
        "a pandas DataFrame"
    )
