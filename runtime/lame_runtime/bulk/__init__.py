"""Embeds corpora to tables of vectors in Parquet.

    from lame_runtime.bulk import EmbedBatch

embed_batch     batches of columns → batches with vectors, for Ray Data, Spark and others
vector_table    the format of the Parquet files: columns, reading and writing
vector_facts    what made the vectors, in the metadata of the files
row_vectors     rows → vectors and errors; a bad row never stops the others
blocks          rows with their vectors → tables of pyarrow
audit           ids in = ids out, no repetitions, unit vectors, one bundle
arrow_modules   imports pyarrow, which is an extra
source/         corpora as rows
one_machine/    one process that writes a table, and can be resumed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lame_runtime.bulk.embed_batch import EmbedBatch

__all__ = ["EmbedBatch"]


def __getattr__(name: str) -> Any:
    """Imports the public name when it is first used (PEP 562)."""
    if name != "EmbedBatch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lame_runtime.bulk.embed_batch import EmbedBatch

    return EmbedBatch
