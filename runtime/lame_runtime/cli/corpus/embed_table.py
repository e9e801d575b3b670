"""`lame-runtime embed … -o OUT.parquet`: embeds a corpus that may hold bad rows, and resumes."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from lame_runtime.cli.grammar import loading_options
from lame_runtime.errors import UsageError, printable, shown
from lame_runtime.options import EncodeKeywords, EncodeOptions

SUFFIX = ".parquet"


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that only a Parquet output takes."""
    group = parser.add_argument_group("Parquet output")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted run, exactly where its last complete part ends",
    )
    group.add_argument(
        "--errors",
        choices=("keep", "stop"),
        help="a row that cannot be embedded: keep it with its error (default), or stop there",
    )
    for kind in ("text", "image", "video", "id"):
        group.add_argument(
            f"--{kind}-column",
            metavar="NAME",
            help=f"column of CSV, Parquet or JSONL for `{kind}` (default: {kind})",
        )


def is_table(options: argparse.Namespace) -> bool:
    """Returns whether the output is a table.

    Raises:
        UsageError: it is not, and an option is for tables only.
    """
    if options.output.suffix.lower() == SUFFIX:
        return True
    for name in ("resume", "errors", "text_column", "image_column", "video_column", "id_column"):
        if getattr(options, name):
            raise UsageError(
                f"`{name}` is for tables; give an `output` that ends in {SUFFIX}, "
                f"not {shown(options.output)}"
            )
    return False


def embed_table(options: argparse.Namespace, encoding: EncodeKeywords) -> int:
    """Embeds the sources of a command line to a table; returns 1 if the audit fails."""
    from lame_runtime.bulk.arrow_modules import arrow
    from lame_runtime.bulk.one_machine.corpus_run import CorpusRun
    from lame_runtime.bulk.source.columns import ColumnNames
    from lame_runtime.bulk.source.corpus import Corpus
    from lame_runtime.cli.sources import PICTURE_SUFFIXES
    from lame_runtime.encoder import Encoder
    from lame_runtime.inputs import VIDEO_SUFFIXES
    from lame_runtime.loading import load

    arrow()  # before anything is loaded
    columns = ColumnNames(
        options.text_column, options.image_column, options.video_column, options.id_column
    )
    suffixes = PICTURE_SUFFIXES | VIDEO_SUFFIXES | {".pdf"}
    corpus = Corpus(options.paths, frozenset(suffixes), columns, options.text)
    # a mistake in a name is found before the bundle is loaded
    corpus.check()
    start = time.perf_counter()
    with load(options.bundle, loading_options(options, workers=1), Encoder) as encoder:
        run = CorpusRun(
            encoder,
            corpus,
            EncodeOptions(**encoding),
            options.output,
            resume=options.resume,
            stop_at_errors=options.errors == "stop",
        )
        audit = run.run()
        report: dict[str, Any] = {
            "output": str(options.output),
            "rows": audit.rows,
            "errors": audit.failed,
            "problems": audit.problems,
            "graph": encoder.graph,
            "backend": encoder.backend.name,
            "seconds": time.perf_counter() - start,
        }
    if options.json:
        print(json.dumps(report))
        return int(bool(audit.problems))
    failed = f", {audit.failed:,} of them with an error instead of a vector" * bool(audit.failed)
    print(
        printable(
            f"wrote {options.output}: {audit.rows:,} rows{failed}, graph {report['graph']} on "
            f"{report['backend']}"
        )
    )
    for problem in audit.problems:
        print(printable(f"audit: {problem}"))
    if not audit.problems:
        print("audit: every id of the source once, unit vectors, one bundle")
    return int(bool(audit.problems))
