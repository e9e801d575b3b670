"""`lame-export demo`: runs data, training, export and search in one folder, and writes a page."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli.grammar import add_command, path

from lame_export.cli.graph_extra import needing_graph_extra

EXAMPLE = """
lame-export demo runs/demo
lame-export demo runs/tiny --recipe digits-tiny
"""


def add(commands: Any) -> None:
    """Adds the command `demo` to the program."""
    parser = add_command(
        commands,
        "demo",
        "train, export, prove and search once, on handwritten digits, and write a page about it",
        needing_graph_extra("demo", _demo),
        EXAMPLE,
    )
    parser.add_argument("dir", type=path, metavar="DIR", help="folder of everything")
    parser.add_argument(
        "--recipe", default="digits", help="digits, or digits-tiny for a look in a minute"
    )


def _demo(options: argparse.Namespace) -> int:
    # deferred, so that `--help` works without PyTorch and ONNX
    from lame_export.demo.run_demo import run_demo

    run_demo(options.dir, options.recipe)
    return 0
