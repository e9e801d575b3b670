"""`lame-export verify`: repeats the certificate against the checkpoint."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lame_runtime.cli.grammar import add_command, path

from lame_export.cli.bundle_command import add_form, add_memory
from lame_export.cli.graph_extra import needing_graph_extra

EXAMPLE = """
lame-export verify bundle --against checkpoint
"""


def add(commands: Any) -> None:
    """Adds the command `verify` to the program."""
    parser = add_command(
        commands,
        "verify",
        "measure the certificate again, against the checkpoint",
        needing_graph_extra("verify", _verify),
        EXAMPLE,
    )
    parser.add_argument("bundle", type=path, help="the bundle")
    parser.add_argument(
        "--against",
        type=path,
        required=True,
        metavar="CHECKPOINT",
        help="the checkpoint that it was exported from",
    )
    add_form(parser)
    add_memory(parser, "verification")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def _verify(options: argparse.Namespace) -> int:
    # deferred, so that `--help` works without PyTorch and ONNX
    from lame_export.parity.verify import verify

    rows = verify(options.bundle, options.against, memory=options.memory, form=options.form)
    # `None` is a row without a gate, which cannot fail
    failed = [row for row in rows if row.passed is False]
    if options.json:
        print(json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False))
    else:
        for row in rows:
            mark = {True: "ok", False: "FAILED", None: ""}[row.passed]
            names = f"{row.comparison:42} {row.graph:9} {row.modality:16}"
            print(f"{names} {row.describe()}  {mark}".rstrip())
        print(f"{len(rows) - len(failed)} of {len(rows)} rows hold")
    return 1 if failed else 0
