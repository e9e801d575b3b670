"""Blocks of rows → tables of pyarrow, and tables with unlike columns → one schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from lame_runtime.bulk.arrow_modules import arrow
from lame_runtime.bulk.row_vectors import Block
from lame_runtime.bulk.source.rows import PLACE_COLUMNS
from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.bulk.vector_table import ERROR, ID, VECTOR, table_schema, vector_column
from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError
from lame_runtime.options import EncodeOptions

_OPTIONS = ("truncate", "max_pixels", "max_frames", "fps", "max_input_pixels")


def facts_of(encoder: Encoder, options: EncodeOptions) -> VectorFacts:
    """Returns what makes the vectors of a call.

    Raises:
        UsageError: the encoder was not loaded from a bundle, or rows are not normalized.
    """
    if encoder.bundle is None:
        raise UsageError("a table of vectors names its bundle; use `Encoder.load`")
    if not options.normalize_embeddings:
        raise UsageError("a table of vectors holds unit vectors; leave `normalize_embeddings` on")
    # signs are packed, so the width of a column does not tell the dimension
    dim = options.truncate_dim or encoder.dim
    # the same for all dimensions in LaME; per dimension, as other libraries have it
    limits = None
    if options.precision in ("int8", "uint8"):
        largest = encoder.bundle.largest_value(dim)
        limits = ((-largest,) * dim, (largest,) * dim)
    changed = {name: getattr(options, name) for name in _OPTIONS}
    return VectorFacts(
        encoder.bundle.manifest.sha256,
        encoder.graph,
        options.role_name,
        options.default_instruction,
        dim,
        options.precision,
        limits,
        {name: value for name, value in changed.items() if value},
    )


def block_table(blocks: Sequence[Block], facts: VectorFacts) -> Any:
    """Returns blocks as one `pyarrow.Table` in the format of `vector_table`."""
    pa = arrow()
    rows = [row for block in blocks for row in block.rows]
    types = {"path": pa.string(), "page": pa.int32(), "text": pa.string()}
    # in the order in which they first occur; JSONL may bring new ones in any line
    names = dict.fromkeys((*PLACE_COLUMNS, *(name for row in rows for name in row.columns)))
    kept = {}
    for name in names:
        if name in (ID, VECTOR, ERROR):
            continue
        kept[name] = _column([row.columns.get(name) for row in rows], types.get(name))
    vectors = vector_column(
        np.concatenate([block.vectors for block in blocks]),
        np.concatenate([block.has_vector for block in blocks]),
    )
    errors = pa.array([error for block in blocks for error in block.errors], pa.string())
    # types as they came out, and the same metadata in every part
    schema = table_schema(facts, [pa.field(name, kept[name].type) for name in kept])
    ids = pa.array([row.id for row in rows], pa.string())
    return pa.Table.from_arrays([ids, *kept.values(), vectors, errors], schema=schema)


def common_schema(schemas: Sequence[Any], facts: VectorFacts) -> Any:
    """Returns a schema that tables of all schemas can be cast to; text where types differ."""
    pa = arrow()
    types: dict[str, Any] = {}
    for schema in schemas:
        for field in schema:
            known = types.get(field.name, pa.null())
            # a part in which the column is empty says nothing about its type
            if pa.types.is_null(known) or known == field.type:
                types[field.name] = field.type
            elif not pa.types.is_null(field.type):
                # JSON has one kind of number
                numeric = all(map(_is_number, (known, field.type)))
                types[field.name] = pa.float64() if numeric else pa.string()
    kept = [pa.field(name, kind) for name, kind in types.items() if name not in (ID, VECTOR, ERROR)]
    return table_schema(facts, kept)


def cast_table(table: Any, schema: Any) -> Any:
    """Returns a table with the columns and types of a schema of `common_schema`."""
    pa = arrow()
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            # a column that only other parts have
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        if column.type != field.type and pa.types.is_string(field.type):
            column = pa.array(list(map(_text, column.to_pylist())), pa.string())
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _column(values: list[Any], kind: Any) -> Any:
    pa = arrow()
    try:
        column = pa.array(values, kind)
        # Parquet has no objects without keys
        if not _is_empty_struct(column.type):
            return column
        return pa.array(list(map(_text, values)), pa.string())
    # values of several types, which JSON may hold
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return pa.array(list(map(_text, values)), pa.string())


def _is_empty_struct(kind: Any) -> bool:
    types = arrow().types
    if types.is_struct(kind):
        fields = [kind.field(place).type for place in range(kind.num_fields)]
        return not fields or any(map(_is_empty_struct, fields))
    return bool(types.is_list(kind)) and _is_empty_struct(kind.value_type)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    # half a surrogate pair, which JSON can hold and Parquet cannot
    return text.encode("utf-8", "replace").decode()


def _is_number(kind: Any) -> bool:
    types = arrow().types
    return bool(types.is_integer(kind) or types.is_floating(kind))
