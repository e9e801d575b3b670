"""`lame-export bundle`, which is `optimum-cli export lame` too."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lame_runtime.cli import path
from lame_runtime.errors import InputError, LameError


def add(commands: Any) -> argparse.ArgumentParser:
    """Declares the command."""
    bundle: argparse.ArgumentParser = commands.add_parser("bundle", help="checkpoint → bundle with certificate")
    bundle.add_argument("checkpoint", type=path)
    bundle.add_argument("bundle", type=path)
    add_options(bundle)
    return bundle


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both commands take."""
    parser.add_argument("--data", type=path, required=True, help="MMEB-style data: calibration, golden vectors, retrieval rows")
    parser.add_argument(
        "--graphs",
        nargs="+",
        metavar="GRAPH",
        help="fp32 fp16 int8 int8-cpu (without it these four), and w8-cpu w4-cpu: weights alone in 8 or 4 bits",
    )
    parser.add_argument("--golden", type=int, default=64, metavar="N", help="golden inputs of each modality (64)")
    parser.add_argument("--calibration", type=int, default=128, metavar="N", help="calibration inputs of each modality (128)")
    parser.add_argument("--strength", type=float, metavar="S", help="of the smoothing before INT8, 0 to 1; without it several are tried")
    parser.add_argument("--json", action="store_true", help="print the certificate's rows as JSON")


def run(options: argparse.Namespace) -> int:
    """Of `lame-export bundle`."""
    return _export(options.checkpoint, options.bundle, options)


def run_optimum(options: argparse.Namespace) -> int:
    """Of `optimum-cli export lame`: mistakes are one line there too."""
    try:
        return _export(options.model, options.output, options)
    except LameError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _export(checkpoint: Path, bundle: Path, options: argparse.Namespace) -> int:
    from lame_export.choice import STRENGTHS
    from lame_export.plan import USUAL, export

    for name in ("golden", "calibration"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: use 1 or more")
    if options.strength is not None and not 0 <= options.strength <= 1:
        raise InputError(f"--strength {options.strength}: use 0 to 1")
    rows = export(
        checkpoint,
        bundle,
        options.data,
        USUAL if options.graphs is None else tuple(options.graphs),
        per_modality=options.golden,
        calibration=options.calibration,
        strengths=STRENGTHS if options.strength is None else (options.strength,),
        on_pass=lambda name: print(f"pass {name}", file=sys.stderr),
    )
    if options.json:
        print(json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False))
    else:
        gated = [row for row in rows if row.passed is not None]
        print(f"wrote {bundle}: {len(gated)} gates met, {len(rows) - len(gated)} figures reported; see parity.json")
    return 0
