"""`lame-train digits`: writes the digits data set."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli.grammar import add_command, path

EXAMPLE = """
lame-train digits runs/digits-data
lame-train digits runs/few-digits --tiny
"""


def add(commands: Any) -> None:
    """Declares the command."""
    parser = add_command(
        commands, "digits", "write the digits data set in MMEB's row formats", _digits, EXAMPLE
    )
    parser.add_argument("root", type=path, help="folder to write; it must not exist")
    parser.add_argument("--tiny", action="store_true", help="a few hundred files, for tests")
    parser.add_argument(
        "--reasoning",
        action="store_true",
        help="write the ablation's tasks of growing difficulty instead",
    )


def _digits(options: argparse.Namespace) -> int:
    # deferred: scikit-learn, which ships the digits, takes long to import
    from lame_training.data import digits
    from lame_training.studies import digit_rows

    if options.reasoning:
        rows = digit_rows.TINY if options.tiny else digit_rows.FULL
        digit_rows.write_reasoning(options.root, rows)
    else:
        digits.write_digits(options.root, digits.TINY if options.tiny else digits.FULL)
    print(f"wrote {options.root}")
    return 0
