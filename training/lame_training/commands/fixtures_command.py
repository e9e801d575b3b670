"""`lame-train fixtures`: writes small data sets in the layouts of published ones."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli.grammar import add_command, path
from lame_runtime.files.atomic import atomic_folder

EXAMPLE = """
lame-train fixtures training runs/layouts
lame-train fixtures mmeb-v2 runs/mmeb-v2
"""
# A list of its own, so that declaring the command does not import the writers.
LAYOUTS = ("training", "mmeb-train", "colpali", "visrag", "llava-hound", "mmeb-v2", "mrmr")


def add(commands: Any) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "fixtures",
        "write small data, made from the digits, in the exact layout of a published data set",
        _fixtures,
        EXAMPLE,
    )
    parser.add_argument(
        "layout",
        choices=LAYOUTS,
        help="the layout; training writes all layouts of training data and a mixture.yaml",
    )
    parser.add_argument("root", type=path, help="folder to write; it must not exist")


def _fixtures(options: argparse.Namespace) -> int:
    from lame_training.fixtures import evaluation_sets, training_sets

    if options.layout in training_sets.LAYOUTS:
        training_sets.LAYOUTS[options.layout](options.root)
    else:
        # these writers fill a folder that exists; those of training sets make their own
        writers = {"mmeb-v2": evaluation_sets.write_mmeb_v2, "mrmr": evaluation_sets.write_mrmr}
        with atomic_folder(options.root) as fresh:
            writers[options.layout](fresh)
    print(f"wrote {options.root}")
    return 0
