"""`lame-runtime index`: makes an index of vectors that `embed` wrote."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lame_runtime.cli.grammar import add_command, add_output, path, whole
from lame_runtime.errors import UsageError, printable, shown

if TYPE_CHECKING:
    from lame_runtime.search.sources.array_source import ArraySource
    from lame_runtime.search.sources.table_source import TableSource

EXAMPLE = """
lame-runtime index vectors.parquet --output pictures.index
lame-runtime index vectors.npy --bundle bundle --graph fp32 -o pictures.index
"""


def add(commands: Any) -> None:
    """Adds the command `index` to the program."""
    parser = add_command(commands, "index", "make an index of vectors for search", _index, EXAMPLE)
    parser.add_argument(
        "vectors", type=path, help="a Parquet file or folder that embed wrote, or a .npy file"
    )
    add_output(parser, "folder to make", required=True)
    parser.add_argument(
        "--prefix",
        type=whole,
        help="number of leading values to store a second time, for a first stage of a search",
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    group = parser.add_argument_group("vectors in a .npy file")
    group.add_argument("--bundle", type=path, help="the bundle that made them")
    group.add_argument("--graph", help="the graph that ran, such as fp32")
    group.add_argument("--role", default="document", help="the role they were embedded with")
    group.add_argument("--rows", type=path, help="a .jsonl file with one object for each vector")


def _index(options: argparse.Namespace) -> int:
    # deferred, so that `--help` does not wait for NumPy
    from lame_runtime.progress import progress_bar
    from lame_runtime.search.index_writer import write_index

    source = _source(options)
    with progress_bar(total=source.rows, unit="row", leave=False) as bar:
        facts = write_index(source, options.output, prefix=options.prefix, on_rows=bar.update)
    kind = facts.vectors
    report = {
        "output": str(options.output),
        "rows": facts.rows,
        "left_out": facts.left_out,
        "columns": [column.name for column in facts.columns],
        "bundle": kind.bundle,
        "graph": kind.graph,
        "role": kind.role,
        "dim": kind.dim,
        "precision": kind.precision,
    }
    without = f", left out {facts.left_out:,} rows without a vector" if facts.left_out else ""
    line = (
        f"wrote {options.output}: {facts.rows:,} × {kind.dim} {kind.precision}, "
        f"graph {kind.graph}{without}"
    )
    print(json.dumps(report) if options.json else printable(line))
    return 0


def _source(options: argparse.Namespace) -> TableSource | ArraySource:
    from lame_runtime.search.sources.table_source import TableSource

    if options.vectors.suffix.lower() == ".npy":
        return _array_source(options)
    if options.bundle or options.graph or options.rows:
        raise UsageError(
            f"{shown(options.vectors)}: already names its bundle, graph and rows; leave out "
            "`bundle`, `graph` and `rows`"
        )
    return TableSource(options.vectors)


def _array_source(options: argparse.Namespace) -> ArraySource:
    from lame_runtime.bulk.vector_facts import VectorFacts
    from lame_runtime.bundle.bundle import Bundle
    from lame_runtime.search.sources.array_source import ArraySource, read_array, read_rows

    if options.bundle is None or options.graph is None:
        raise UsageError(
            f"{shown(options.vectors)}: does not tell what made its vectors; "
            "give `bundle` and `graph`, or index the Parquet file that `embed` writes"
        )
    array = read_array(options.vectors)
    if array.dtype.name != "float32":
        # integers may be levels or signs, which the file does not tell
        raise UsageError(
            f"{shown(options.vectors)}: holds {array.dtype}: only float32 is read from a .npy "
            "file; embed other precisions to Parquet"
        )
    bundle = Bundle.open(Path(options.bundle))
    bundle.graph_files(options.graph)
    facts = VectorFacts(
        bundle=bundle.manifest.sha256,
        graph=options.graph,
        role=options.role,
        instruction=None,
        dim=array.shape[1],
        precision="float32",
    )
    return ArraySource(array, None if options.rows is None else read_rows(options.rows), facts)
