"""`lame-runtime`: embeds inputs with a bundle, and checks and benchmarks it on this device."""

from __future__ import annotations

import argparse

from lame_runtime import __version__
from lame_runtime.cli.command_line import run_command


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns 0 on success, 1 if a check failed, 2 for wrong use or bad input."""
    return run_command(make_parser, arguments, "nothing was written")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands, which also generates the reference documentation."""
    # deferred, because NumPy takes a fifth of a second, in which signals are handled already
    from lame_runtime.cli import bench_command, embed_command, info_command, verify_command
    from lame_runtime.cli.grammar import ProgramParser
    from lame_runtime.cli.retrieval import index_command, search_command
    from lame_runtime.cli.server import serve_command

    parser = ProgramParser(
        prog="lame-runtime",
        description="Embeds texts, pictures and videos from a LaME bundle, without PyTorch.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (
        embed_command,
        index_command,
        search_command,
        serve_command,
        info_command,
        verify_command,
        bench_command,
    ):
        module.add(commands)
    return parser
