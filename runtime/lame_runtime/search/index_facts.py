"""The facts of an index, `index.json`: what made its vectors, and which files hold what."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError, StorageError, UsageError, shown
from lame_runtime.files.constraints import Between, Length, Text
from lame_runtime.files.json_file import read_json

FORMAT, KIND = 1, "lame-index"
INDEX_FILE = "index.json"
MAKE_AGAIN = "make it again with `lame-runtime index`"
MAX_INDEX_BYTES = 16 << 20
"""Largest `index.json` that is read; the ranges of 65,536 values take 3 MB."""

ColumnKind = Literal["text", "integer", "number", "boolean"]
Rows = Annotated[int, Between(1, 1 << 40)]


@dataclass(frozen=True)
class ColumnFacts:
    """Describes a column, whose files are numbered by its place in the list of columns."""

    name: Annotated[str, Text(1000)]
    kind: ColumnKind
    has_nulls: bool


@dataclass(frozen=True)
class IndexFacts:
    """Holds the contents of `index.json`."""

    vectors: VectorFacts
    """The origin of the vectors."""
    rows: Rows
    left_out: Annotated[int, Between(0, 1 << 40)]
    """Rows of the source that had no vector."""
    columns: Annotated[list[ColumnFacts], Length(1000, 1)]
    root: Annotated[str, Text(10_000)]
    """Folder that relative paths of files start from."""
    prefix: Annotated[int, Between(1, 65_536)] | None
    """Number of leading values that were stored once more for a first stage; None for none."""
    format: int = FORMAT
    kind: str = KIND

    def to_json(self) -> str:
        """Returns the text of `index.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def require_bundle(self, sha256: str, graph: str, name: str) -> None:
        """Checks that queries will come from the bundle and graph of the index.

        Args:
            sha256: hash of the bundle's manifest.
            graph: the graph that runs.
            name: the index, for messages.

        Raises:
            UsageError: the bundle or the graph is another.
        """
        ours = self.vectors
        # cosines of two models say nothing, and look like those of one
        if sha256 != ours.bundle:
            raise UsageError(
                f"{shown(name)}: holds vectors of the bundle {ours.bundle[:12]}…, and this is "
                f"{sha256[:12] or 'another'}…: search it with its own bundle, or embed again"
            )
        # INT8 queries against FP32 documents would lose without a word
        if graph != ours.graph:
            raise UsageError(
                f"{shown(name)}: holds vectors of the graph {shown(ours.graph)}, and "
                f"{shown(graph)} runs: load the bundle with `graph={shown(ours.graph)}`"
            )

    def query_role(self, role: str | None) -> str:
        """Returns the role that queries are embedded with.

        Args:
            role: the role that was asked for; None for "query".

        Raises:
            UsageError: the items of the index were embedded as queries, and no role was asked for.
        """
        if role is None and self.vectors.role == "query":
            raise UsageError(
                "the items of the index were embedded with the role query, which is meant for "
                'queries: embed them with the role document, or pass `role="query"` anyway'
            )
        return "query" if role is None else role


def read_index_facts(folder: Path) -> IndexFacts:
    """Reads and checks `FOLDER/index.json`.

    Raises:
        StorageError: there is no such file, it cannot be read, it is damaged, or its format
            is not known.
    """
    path = folder / INDEX_FILE
    try:
        raw: Any = read_json(path, MAX_INDEX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(
            f"{shown(folder)}: is not an index: it has no {INDEX_FILE}; "
            "give the folder that `lame-runtime index` wrote"
        ) from None
    except OSError as error:
        raise StorageError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise StorageError(f"{shown(path)}: is not JSON; {MAKE_AGAIN}") from None
    # before the fields, which another format may name differently
    version = raw.get("format") if isinstance(raw, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT or raw.get("kind") != KIND:
        raise StorageError(
            f"{shown(path)}: is not an index of the format {FORMAT}, the last that is known here; "
            "upgrade lame-runtime, or make the index again"
        )
    try:
        facts: IndexFacts = from_json_object(IndexFacts, raw, str(path), remedy=MAKE_AGAIN)
    except BundleError as error:
        raise StorageError(str(error)) from None
    names = [column.name for column in facts.columns]
    if len(set(names)) < len(names):
        raise StorageError(f"{shown(path)}: has two columns of one name; {MAKE_AGAIN}")
    return facts
