"""`lame-train fixtures`: small data sets in the layouts of the published ones."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.atomic import atomic_folder
from lame_runtime.cli import path

LAYOUTS = ("training", "mmeb-train", "colpali", "visrag", "llava-hound", "mmeb-v2", "mrmr")


def add(commands: Any) -> None:
    """Declares the command."""
    fixtures = commands.add_parser(
        "fixtures",
        help="write small data in a published layout",
        description="Writes small data made from the digits in the exact layout of a published data set, which can take its place.",
    )
    fixtures.add_argument("layout", choices=LAYOUTS, help="training: all of the training layouts with a mixture.yaml")
    fixtures.add_argument("root", type=path)
    fixtures.set_defaults(run=_fixtures)


def _fixtures(options: argparse.Namespace) -> int:
    from lame_training.fixtures import evaluation, training

    if options.layout in training.LAYOUTS:
        training.LAYOUTS[options.layout](options.root)
    else:
        with atomic_folder(options.root) as fresh:
            {"mmeb-v2": evaluation.write_mmeb_v2, "mrmr": evaluation.write_mrmr}[options.layout](fresh)
    print(f"wrote {options.root}")
    return 0
