"""Defines arguments that mean the same in `lame-runtime`, `lame-train` and `lame-export`.

All programs use `--output` for files they write, `--graph` for a graph of a bundle, `--backend` for
the backend that runs it, and `--json` for machine-readable output.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lame_runtime.errors import printable, shown
from lame_runtime.files.atomic import names_open_file
from lame_runtime.options import BACKENDS, LoadOptions

LONGEST_MESSAGE = 400
"""Number of characters of argparse's own messages that are printed; they repeat what was typed."""

GRAPH_NAMES = ("fp32", "fp32-cpu", "fp16", "int8", "int8-cpu", "w8-cpu", "w4-cpu")
"""Graphs that a bundle may hold."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of the example, and shows only informative defaults."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """Appends the default unless it is None, False or empty, which the help texts explain."""
        # argparse itself would show "(default: None)"
        if action.default in (None, False, [], argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


class ProgramParser(argparse.ArgumentParser):
    """Parses the arguments of a program, and prints errors as printable lines of bounded length.

    The parsers of commands are of the same class, because `add_subparsers` takes that of its own.
    """

    def error(self, message: str) -> NoReturn:
        """Prints the usage and the message, and exits with 2."""
        super().error(shown(printable(message), LONGEST_MESSAGE))


def add_command(
    commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], int], example: str
) -> argparse.ArgumentParser:
    """Adds a command to a program.

    Args:
        commands: the return value of `add_subparsers`.
        name: name of the command.
        text: description in one line, without a capital or a period.
        run: runs the command and returns the exit code.
        example: command lines for the end of `--help`.
    """
    # at the end of `--help`, because the end is what remains visible on the screen
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n{lines}",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show on stderr what is loaded and why"
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_output(
    parser: argparse.ArgumentParser, text: str, *, required: bool = False, **options: Any
) -> None:
    """Adds `-o/--output`; the older spelling `--out` still works but is not shown.

    Args:
        parser: the command's parser.
        text: help text.
        required: whether the argument must be given, in either spelling.
        options: further arguments of `add_argument`, such as `default` or `metavar`.
    """
    # a second option string rather than a suppressed argument in a mutually exclusive group: usage
    # would show both members of a required group
    action = parser.add_argument(
        "-o", "--output", "--out", type=output_path, required=required, help=text, **options
    )
    hide_spelling(action, "--out")


def hide_spelling(action: argparse.Action, spelling: str) -> None:
    """Hides an option string from the help; it still works."""
    # the parser has its own table of option strings; only the help reads this list
    action.option_strings = [option for option in action.option_strings if option != spelling]


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Adds the positional argument of the bundle."""
    parser.add_argument("bundle", type=path, help="the folder that lame-export wrote")


def add_graph(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds `--graph`: one graph of the bundle, or several by repeating the flag."""
    names = ", ".join(GRAPH_NAMES)
    if several:
        text = f"a graph of the bundle, may be repeated (default: all): {names}"
        parser.add_argument("--graph", action="append", metavar="GRAPH", help=text)
    else:
        parser.add_argument("--graph", metavar="GRAPH", help=f"graph of the bundle: {names}")


def add_loading(parser: argparse.ArgumentParser, *, with_workers: bool = True) -> None:
    """Adds the arguments of `Encoder.load` that are useful on a command line.

    Args:
        parser: the command's parser.
        with_workers: add `--workers`; a command that runs one batch at a time needs no second, and
            may use the name for the threads that prepare inputs.
    """
    group = parser.add_argument_group("loading")
    group.add_argument("--backend", default="auto", choices=BACKENDS, help="what runs the graphs")
    group.add_argument("--threads", type=whole, help="CPU threads (default: all cores)")
    group.add_argument(
        "--map-weights",
        action="store_true",
        help="leave the weights on the disk (CPU): little memory, about half the speed",
    )
    group.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="memory that weights and batches may take on a CPU (default: what is available)",
    )
    group.add_argument(
        "--engines",
        type=path,
        metavar="DIR",
        help="folder of the TensorRT plans (default: in the bundle, or in the user's cache)",
    )
    group.add_argument(
        "--trust-plans",
        action="store_true",
        help="load TensorRT plans that another account or machine built; a plan is code",
    )
    group.add_argument("--gpu", type=whole, default=0, help="index of the GPU that runs plans")
    if with_workers:
        group.add_argument(
            "--workers",
            type=whole,
            default=1,
            help="threads that may run plans at the same time",
        )
    group.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="record and replay plans, for small batches of short inputs",
    )


def loading_options(options: argparse.Namespace, *, workers: int | None = None) -> LoadOptions:
    """Returns the options of `add_loading`, with `graph` if the command takes a single graph.

    Args:
        options: the command's arguments.
        workers: threads that may run plans, if `--workers` does not mean that.
    """
    # `verify` and `bench` take a list of graphs and load them one by one
    graph = getattr(options, "graph", None)
    return LoadOptions(
        graph=graph if isinstance(graph, str) else None,
        backend=options.backend,
        threads=options.threads,
        map_weights=options.map_weights,
        memory=options.memory,
        engines=options.engines,
        trust_plans=options.trust_plans,
        gpu=options.gpu,
        workers=options.workers if workers is None else workers,
        cuda_graphs=options.cuda_graphs,
    )


def path(text: str) -> Path:
    """Parses a path argument; raises `argparse.ArgumentTypeError` if it is empty or `-`.

    An unset shell variable gives an empty string, which would mean the current folder. Commands
    that read JSONL from stdin have an argument of their own for it.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    if text == "-":
        raise argparse.ArgumentTypeError(
            "- would be the standard input or output, which is not possible here; "
            "give a path, or ./- for a file of that name"
        )
    return Path(text)


def output_path(text: str) -> Path:
    """Parses the path of a file or folder to write.

    Raises:
        argparse.ArgumentTypeError: it is empty, `-`, or the name of an open file such as
            /dev/stdout. Outputs appear under their name when they are complete, which an open file
            cannot.
    """
    if names_open_file(text):
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is an open file, which cannot be written in one piece; "
            "give the path of a file"
        )
    return path(text)


def whole(text: str) -> int:
    """Parses a whole number; raises `argparse.ArgumentTypeError`."""
    try:
        return int(text)
    except ValueError:
        # also thousands of digits, which Python does not convert
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is not a whole number") from None
