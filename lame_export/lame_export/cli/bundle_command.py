"""`lame-export bundle`: exports a checkpoint; `optimum-cli export lame` runs the same code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lame_runtime.bundle.certificate import PassCost
from lame_runtime.cli.command_line import with_flags
from lame_runtime.cli.grammar import GRAPH_NAMES, add_command, path
from lame_runtime.cli.system.streams import print_note
from lame_runtime.errors import LameError

from lame_export.cli.graph_extra import needing_graph_extra

EXAMPLE = """
lame-export bundle checkpoint bundle
lame-export bundle Qwen3-VL-Embedding-2B bundle --max-length 2048
lame-export bundle checkpoint bundle --data data --graphs fp32 int8-cpu --strength 0.5
"""


def add(commands: Any) -> None:
    """Adds the command `bundle` to the program."""
    parser = add_command(
        commands,
        "bundle",
        "export a checkpoint or a published embedder to a bundle with a certificate",
        needing_graph_extra("bundle", _bundle),
        EXAMPLE,
    )
    parser.add_argument(
        "checkpoint",
        type=path,
        help="the folder that lame-train wrote, or a Sentence Transformers folder",
    )
    parser.add_argument("bundle", type=path, help="the folder to make")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `lame-export bundle` and `optimum-cli export lame` share."""
    parser.add_argument(
        "--data",
        type=path,
        metavar="DIR",
        help="MMEB-style data: calibration, golden vectors, retrieval rows (default: a built-in "
        "set of texts in many scripts and of drawn pictures)",
    )
    parser.add_argument(
        "--graphs",
        nargs="+",
        metavar="GRAPH",
        help=f"graphs of the bundle, of {', '.join(GRAPH_NAMES)} (default: the first five); "
        "w8-cpu and w4-cpu hold weights alone in 8 or 4 bits",
    )
    parser.add_argument(
        # `dest` is the argument of `export`, so that error messages can name the flag
        "--golden",
        dest="per_modality",
        type=int,
        default=64,
        metavar="N",
        help="golden inputs of each modality",
    )
    parser.add_argument(
        "--calibration",
        type=int,
        default=128,
        metavar="N",
        help="calibration inputs of each modality",
    )
    parser.add_argument(
        "--strength",
        dest="strengths",
        type=float,
        metavar="S",
        help="strength of the smoothing before INT8, 0 to 1 (default: several are tried)",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="longest input of a published embedder in tokens (default: its own, at most 8192)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="pixels of a picture of a published embedder after resizing (default: its own)",
    )
    add_form(parser)
    add_memory(parser, "export")
    parser.add_argument("--json", action="store_true", help="print the certificate's rows as JSON")


def add_form(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--form`."""
    parser.add_argument(
        "--form",
        metavar="NAME",
        help="form of a published embedder that is no Sentence Transformers folder, such as "
        "qwen3-vl-embedding, gme-sequential or vlm2vec-v2",
    )


def add_memory(parser: argparse.ArgumentParser, job: str) -> None:
    """Adds the option `--memory`."""
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help=f"memory that the {job} may take (default: what the machine has available)",
    )


def run_optimum(options: argparse.Namespace) -> int:
    """Runs `optimum-cli export lame`; prints errors on one line and returns the exit code."""
    # Optimum owns the real parser; this one only maps arguments in messages to flags
    parser = argparse.ArgumentParser()
    add_options(parser)
    try:
        return _export(options.model, options.output, options)
    except LameError as error:
        print_note(f"error: {with_flags(str(error), parser)}")
        return error.exit_code


def _bundle(options: argparse.Namespace) -> int:
    return _export(options.checkpoint, options.bundle, options)


def _export(checkpoint: Path, bundle: Path, options: argparse.Namespace) -> int:
    # deferred, so that `--help` works without PyTorch and ONNX
    from lame_export.plan import export
    from lame_export.quantization.search import STRENGTHS
    from lame_export.state import DEFAULT_GRAPHS

    # progress goes to stderr, because stdout may be piped as JSON
    rows = export(
        checkpoint,
        bundle,
        options.data,
        DEFAULT_GRAPHS if options.graphs is None else options.graphs,
        per_modality=options.per_modality,
        calibration=options.calibration,
        # a single strength is used without a search
        strengths=STRENGTHS if options.strengths is None else (options.strengths,),
        memory=options.memory,
        max_length=options.max_length,
        max_pixels=options.max_pixels,
        form=options.form,
        on_pass=_show_pass,
    )
    if options.json:
        print(json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False))
    else:
        gated = sum(row.passed is not None for row in rows)
        reported = len(rows) - gated
        print(f"wrote {bundle}: {gated} gates met, {reported} figures reported; see parity.json")
    return 0


def _show_pass(name: str, cost: PassCost | None) -> None:
    print_note(f"pass {name}" if cost is None else f"pass {name}: {cost.describe()}")
