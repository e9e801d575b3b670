"""`lame-train digits`: write the embedded data set."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli import path


def add(commands: Any) -> None:
    """Declares the command."""
    data = commands.add_parser(
        "digits", help="write the digits data set", description="Writes the embedded data set in MMEB's row formats."
    )
    data.add_argument("root", type=path)
    data.add_argument("--tiny", action="store_true", help="a few hundred files, for tests")
    data.add_argument("--reasoning", action="store_true", help="the ablation's tasks of growing difficulty instead")
    data.set_defaults(run=_digits)


def _digits(options: argparse.Namespace) -> int:
    from lame_training import digits, reasoning

    if options.reasoning:
        reasoning.write_reasoning(options.root, reasoning.TINY if options.tiny else reasoning.FULL)
    else:
        digits.write_digits(options.root, digits.TINY if options.tiny else digits.FULL)
    print(f"wrote {options.root}")
    return 0
