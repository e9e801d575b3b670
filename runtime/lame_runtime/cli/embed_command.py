"""`lame-runtime embed`: writes the vectors of pictures, videos, PDFs and texts to a file."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from lame_runtime.cli.corpus.embed_table import add_table_options, embed_table, is_table
from lame_runtime.cli.grammar import (
    add_bundle,
    add_command,
    add_graph,
    add_loading,
    add_output,
    loading_options,
    whole,
)
from lame_runtime.contract.vectors import PRECISIONS
from lame_runtime.errors import InputError, UsageError, printable, shown
from lame_runtime.options import EncodeKeywords

EXAMPLE = """
lame-runtime embed bundle photo.jpg report.pdf --text "a red bicycle" --output vectors.npy
lame-runtime embed bundle pictures/ --role document --batch-size 16 --output documents.npy
lame-runtime embed bundle pictures/ --role document --output documents.parquet --resume
"""


def add(commands: Any) -> None:
    """Adds the command `embed` to the program."""
    parser = add_command(
        commands, "embed", "embed pictures, videos, PDFs and texts", _embed, EXAMPLE
    )
    add_bundle(parser)
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="a picture, a video, a PDF (a.pdf#page=2 for one page), a folder of them, "
        "a .jsonl file, or - for JSONL on stdin; for a Parquet output also .csv and .parquet",
    )
    parser.add_argument(
        "--text", action="append", default=[], metavar="TEXT", help="a text; may be repeated"
    )
    add_output(
        parser,
        "(n, dim) .npy file, or .parquet table with ids and errors; rows in input order: paths, "
        "then texts",
        required=True,
    )
    add_graph(parser)
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    _add_encoding(parser)
    add_table_options(parser)
    add_loading(parser, with_workers=False)


def _add_encoding(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `Encoder.encode`."""
    group = parser.add_argument_group("embedding")
    group.add_argument(
        "--role",
        metavar="ROLE",
        help="query or document: adds the contract's instruction of that role",
    )
    group.add_argument("--instruction", help="instruction for every input that brings none")
    group.add_argument("--batch-size", type=whole, default=32, help="inputs per run of the graph")
    group.add_argument(
        "--batch-tokens",
        type=whole,
        help="tokens per run of the graph, padding included (default: what fits in memory)",
    )
    group.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts that are too long instead of refusing them",
    )
    group.add_argument(
        "--truncate-dim", type=whole, help="number of leading values to keep of each vector"
    )
    group.add_argument(
        "--precision",
        default="float32",
        choices=PRECISIONS,
        help="type of the values; binary and ubinary hold eight values in a byte",
    )
    group.add_argument(
        "--max-pixels",
        type=whole,
        help="pixels of a picture or a video's frame after resizing (default: the contract's)",
    )
    group.add_argument(
        "--max-frames", type=whole, help="frames sampled from a video (default: the contract's)"
    )
    group.add_argument(
        "--fps",
        type=float,
        help="frames sampled per second of video (default: the contract's)",
    )
    group.add_argument(
        "--max-input-pixels",
        type=whole,
        help="pixels of all pictures and videos of one input (default: the contract's)",
    )
    group.add_argument(
        "--workers",
        type=whole,
        help="threads that prepare pictures and videos while the model runs "
        "(default: one per core, at most 8; 0 for none)",
    )


def _embed(options: argparse.Namespace) -> int:
    # deferred, so that `--help` and mistyped options do not wait for NumPy
    import numpy as np

    from lame_runtime.cli.sources import read_sources
    from lame_runtime.cli.system.outputs import without_output
    from lame_runtime.encoder import Encoder
    from lame_runtime.files.atomic import atomic_path, writing
    from lame_runtime.loading import load
    from lame_runtime.progress import progress_bar

    _check(options)
    if is_table(options):
        return embed_table(options, _encoding_options(options))
    encoder = load(options.bundle, loading_options(options, workers=1), Encoder)
    # open the output first, so that an unwritable path fails before the work
    with encoder, atomic_path(options.output) as fresh:
        # inputs are read lazily, so the time includes decoding
        start = time.perf_counter()
        inputs = without_output(read_sources(options.paths, options.text), options.output)
        vectors = encoder.stream(inputs, **_encoding_options(options))
        rows = list(progress_bar(vectors, unit="input", leave=False))
        seconds = time.perf_counter() - start
        if not rows:
            names = shown(", ".join(options.paths))
            raise InputError(f"nothing to embed: {names} holds no input")
        array = np.stack(rows)
        with writing(options.output), fresh.open("wb") as file:
            np.save(file, array)
    # `seconds` excludes loading, which a service does only once
    report = {
        "output": str(options.output),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "graph": encoder.graph,
        "backend": encoder.backend.name,
        "seconds": seconds,
    }
    size = f"{array.shape[0]} × {array.shape[1]} {array.dtype}"
    line = f"wrote {options.output}: {size}, graph {encoder.graph} on {encoder.backend.name}"
    print(json.dumps(report) if options.json else printable(line))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Checks the arguments before anything is loaded; raises `UsageError`."""
    from lame_runtime.cli.system.outputs import require_apart, require_no_source

    if not options.paths and not options.text:
        raise UsageError(
            "nothing to embed: name a picture, a folder or a .jsonl file, or pass `text`"
        )
    require_apart({"output": options.output}, options.bundle, options.engines)
    # no table is read as a file of a folder
    names = [name for name in options.paths if not (is_table(options) and Path(name).is_dir())]
    require_no_source(options.output, names)


def _encoding_options(options: argparse.Namespace) -> EncodeKeywords:
    return {
        "role": options.role,
        "instruction": options.instruction,
        "batch_size": options.batch_size,
        "batch_tokens": options.batch_tokens,
        "truncate_dim": options.truncate_dim,
        "truncate": options.truncate,
        "max_pixels": options.max_pixels,
        "max_frames": options.max_frames,
        "fps": options.fps,
        "max_input_pixels": options.max_input_pixels,
        "precision": options.precision,
        "workers": options.workers,
    }
