"""`lame-train`: run a recipe, evaluate what came out, time it against its rivals."""

from __future__ import annotations

import argparse
import sys

from lame_runtime.cli import run_command

from lame_training import __version__
from lame_training.commands import ablation, digits, evaluate, fixtures, paradigms, run

COMMANDS = (run, evaluate, paradigms, ablation, digits, fixtures)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 done, 1 a check failed, 2 wrong use or bad input)."""
    return run_command(_parser(), arguments, "what was complete is kept; the same command continues it, lame-train run with --resume")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lame-train", description="Trains and evaluates LaME models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
