"""`lame-runtime search`: finds the rows of an index that are nearest to a text or picture."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lame_runtime.cli.grammar import (
    add_bundle,
    add_command,
    add_graph,
    add_loading,
    loading_options,
    output_path,
    path,
    whole,
)
from lame_runtime.errors import UsageError, printable, shown

if TYPE_CHECKING:
    from lame_runtime.search import Index

EXAMPLE = """
lame-runtime search pictures.index bundle "a red bicycle"
lame-runtime search pictures.index bundle photo.jpg "in blue" --where year=2020 --html found.html
"""
STAGES = ("none", "bits", "prefix")


def add(commands: Any) -> None:
    """Adds the command `search` to the program."""
    parser = add_command(
        commands, "search", "find what is nearest to a text or picture", _search, EXAMPLE
    )
    parser.add_argument("index", type=path, help="the folder that index wrote")
    add_bundle(parser)
    parser.add_argument(
        "query",
        nargs="*",
        metavar="QUERY",
        help="a text, and pictures or pages of a PDF; together they are one query",
    )
    parser.add_argument("--text", help="a text, also one that looks like the name of a picture")
    parser.add_argument("--top-k", type=whole, default=10, help="number of results")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="a condition on a column, such as label=7 or year>=2020; may be repeated",
    )
    parser.add_argument(
        "--first-stage",
        default="none",
        choices=STAGES,
        help="compare with all vectors, or first with their signs or leading values",
    )
    parser.add_argument(
        "--candidates",
        type=whole,
        help="rows that a first stage keeps (default: 4 per result, at least 1,000)",
    )
    parser.add_argument("--role", help="role of the query (default: query)")
    parser.add_argument("--instruction", help="instruction of the query")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--html", type=output_path, metavar="FILE", help="write a page with thumbnails, too"
    )
    add_graph(parser)
    add_loading(parser)


def _search(options: argparse.Namespace) -> int:
    # deferred, so that `--help` does not wait for NumPy
    from lame_runtime.cli.retrieval.result_page import result_page
    from lame_runtime.encoder import Encoder
    from lame_runtime.files.atomic import atomic_text
    from lame_runtime.loading import load
    from lame_runtime.search import Index

    query = _query(options)
    index = Index.open(options.index)
    # the graph of the index runs, unless another is asked for, which is refused
    options.graph = options.graph or index.facts.vectors.graph
    role = index.facts.query_role(options.role)
    with load(options.bundle, loading_options(options), Encoder) as encoder:
        bundle = encoder.bundle
        index.require_bundle("" if bundle is None else bundle.manifest.sha256, encoder.graph)
        vector = encoder.encode(
            query,
            role=role,
            instruction=options.instruction,
            truncate_dim=index.facts.vectors.dim,
        )
        matches = index.search(
            vector,
            top_k=options.top_k,
            where=options.where,
            first_stage=options.first_stage,
            candidates=options.candidates,
        )
        results = _results(index, matches.rows[0].tolist(), matches.scores[0].tolist())
        if options.html is not None:
            rules = encoder.preparer.contract.images
            atomic_text(options.html, result_page(index, _words(query), results, rules))
    print(_json(results) if options.json else _table(results))
    return 0


def _query(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the query as one input; what ends like a picture's name is one, and must exist."""
    from lame_runtime.cli.sources import PICTURE_SUFFIXES
    from lame_runtime.contract.media.pages import is_pdf

    texts: list[str] = []
    pictures: list[str] = []
    for part in options.query:
        is_picture = Path(part).suffix.lower() in PICTURE_SUFFIXES or is_pdf(part)
        (pictures if is_picture else texts).append(part)
    if options.text is not None:
        texts.append(options.text)
    if len(texts) > 1:
        raise UsageError(f"a query has one text, not {len(texts)}: put a text in quotes")
    if not any(texts) and not pictures:
        raise UsageError("nothing to search for: give a text or a picture")
    return {"image": [Path(picture) for picture in pictures], "text": "".join(texts)}


def _results(index: Index, rows: list[int], scores: list[float]) -> list[dict[str, Any]]:
    return [
        # a column of the same name must not stand for the result's own
        {"score": 0.0, "row": 0} | index.row(row) | {"score": round(score, 6), "row": row}
        for row, score in zip(rows, scores, strict=True)
    ]


def _json(results: list[dict[str, Any]]) -> str:
    # JSON has neither NaN nor infinity, and a terminal may act on control characters
    finite = [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in result.items()
        }
        for result in results
    ]
    return json.dumps({"results": finite}, allow_nan=False)


def _table(results: list[dict[str, Any]]) -> str:
    """Returns one line for each result: rank, score, and what it is."""
    if not results:
        return "nothing meets the conditions"
    lines = []
    for rank, result in enumerate(results, 1):
        name = result_name(result)
        rest = [
            f"{key}={shown(value, 40)}"
            for key, value in result.items()
            if key not in ("score", "row", "id", "path", "page", "text") and value is not None
        ]
        lines.append(printable("  ".join([f"{rank:3}  {result['score']:.4f}", name, *rest])))
    return "\n".join(lines)


def result_name(result: dict[str, Any]) -> str:
    """Returns what a person calls a result: its file and page, its text, or its id."""
    if result.get("path"):
        page = result.get("page")
        return f"{result['path']}#page={page}" if page is not None else str(result["path"])
    return shown(result.get("text") or result.get("id"), 200)


def _words(query: dict[str, Any]) -> str:
    return " + ".join([*map(str, query["image"]), *filter(None, [query["text"]])])
