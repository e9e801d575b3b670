"""`lame-train fixtures`: small data sets in the layouts of the published ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lame_runtime.cli import path
from lame_runtime.errors import InputError


def _mmeb_v2(root: Path) -> None:
    from lame_training.fixtures.evaluation import write_mmeb_v2

    write_mmeb_v2(root)


def _mrmr(root: Path) -> None:
    from lame_training.fixtures.evaluation import write_mrmr

    write_mrmr(root)


LAYOUTS: dict[str, Callable[[Path], None]] = {"mmeb-v2": _mmeb_v2, "mrmr": _mrmr}
"""What writes each layout below a folder that is there and empty."""


def add(commands: Any) -> None:
    """Declares the command."""
    fixtures = commands.add_parser(
        "fixtures",
        help="write small data in a published layout",
        description="Writes small data made from the digits in the exact layout of a published data set, which can take its place.",
    )
    fixtures.add_argument("layout", choices=list(LAYOUTS))
    fixtures.add_argument("root", type=path)
    fixtures.set_defaults(run=_fixtures)


def _fixtures(options: argparse.Namespace) -> int:
    write_whole(LAYOUTS[options.layout], options.root)
    print(f"wrote {options.root}")
    return 0


def write_whole(write: Callable[[Path], None], root: Path) -> None:
    """Lets `write` fill a folder that appears as `root` when it is complete.

    Raises:
        InputError: `root` is there already, or the file system refuses.
    """
    import tempfile

    if root.exists():
        raise InputError(f"{root}: already exists; remove it or choose another folder")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as fresh:
            data = Path(fresh) / "data"
            data.mkdir()
            write(data)
            data.rename(root)
    except OSError as error:
        raise InputError(f"{root}: cannot be written ({error.strerror or error}); choose another place or free some space") from None
