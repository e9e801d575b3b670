"""`lame-export`: exports checkpoints, builds TensorRT plans, and checks both."""

from __future__ import annotations

import argparse

from lame_runtime.cli.command_line import run_command

from lame_export import __version__


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns 0 on success, 1 if a check failed, 2 for wrong use or bad input."""
    return run_command(make_parser, arguments, "no bundle was left")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands, which also generates the reference documentation."""
    # deferred, because signals are handled already while this is imported
    from lame_runtime.cli.grammar import ProgramParser

    from lame_export.cli import (
        bisect_command,
        bundle_command,
        demo_command,
        engine_command,
        sentence_transformers_command,
        triton_command,
        verify_command,
    )

    parser = ProgramParser(
        prog="lame-export",
        description="Exports LaME checkpoints to verified ONNX bundles and builds engines.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    # the order in which `--help` lists the commands
    for module in (
        bundle_command,
        engine_command,
        verify_command,
        triton_command,
        bisect_command,
        demo_command,
        sentence_transformers_command,
    ):
        module.add(commands)
    return parser
