"""`lame-train`: trains recipes, evaluates models, and runs the studies about the method."""

from __future__ import annotations

import argparse
import importlib
import sys

from lame_runtime.cli.command_line import run_command

from lame_training import __version__

COMMANDS = (
    "train_command",
    "evaluate_command",
    "probe_command",
    "paradigms_command",
    "ablation_command",
    "digits_command",
    "fixtures_command",
    "sample_backbone_command",
    "import_command",
)
"""Modules of the commands, in the order of `lame-train --help`."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns 0 if done, 1 if a check or the work failed, 2 for wrong use."""
    return run_command(
        make_parser,
        arguments,
        "what was complete is kept; the same command continues it, lame-train run with --resume",
    )


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of all commands, from which the reference in the documentation is made."""
    # deferred, because signals are handled already while this is imported
    from lame_runtime.cli.grammar import ProgramParser

    parser = ProgramParser(prog="lame-train", description="Trains and evaluates LaME models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        importlib.import_module(f"lame_training.commands.{command}").add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
