"""The interface of a kind."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import Any

from fuzz.case import Case
from fuzz.guard.worker import Room

ROOT = Path(__file__).resolve().parents[3]
TINY_BUNDLE = ROOT / "examples/tiny-bundle"


class Kind(ABC):
    """One kind of cases: how they are generated, and what is called with them.

    The parent process calls `generate`; a worker calls `open` once and, for every case, `prepare`,
    `run` and `clean`. Only `run` is watched and judged.
    """

    name: str
    """Name in the table, and of the folder of its seeds."""
    group = "runtime"
    share = 1.0
    """Share of a campaign's time, relative to the other kinds."""
    slice_cases = 100
    """Number of cases in the slice that the tests run."""
    bounded = True
    """Whether the bound on memory holds."""
    starts_processes = False
    """Whether the project starts processes of its own; they are then named by `expects`."""

    @abstractmethod
    def generate(self, random: Random) -> Case:
        """Returns a case, which depends on nothing but `random`."""

    def open(self, room: Room) -> None:
        """Loads what cases need; runs in the worker."""
        self.room = room

    def prepare(self, case: Case) -> None:  # noqa: B027 - most kinds need nothing
        """Writes the files of a case."""

    @abstractmethod
    def run(self, case: Case) -> None:
        """Calls the project; raises what it raises, or `WrongError` for a wrong answer."""

    def expects(self, event: str, arguments: tuple[Any, ...]) -> bool:
        """Returns whether an audit event is what the project does itself, such as a process."""
        return False

    def clean(self) -> None:
        """Removes the files of a case."""
        for path in self.room.work.iterdir():
            if path not in (self.room.fixed, self.room.work / "tmp"):
                remove(path)
        for path in (self.room.work / "tmp").iterdir():
            remove(path)


def remove(path: Path) -> None:
    """Removes a file or folder that may have lost its permissions."""
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o700)
        for entry in path.iterdir():
            remove(entry)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def link_tree(source: Path, target: Path) -> None:
    """Copies a folder by hard links; whoever changes a file must replace it."""
    import os

    shutil.copytree(source, target, copy_function=os.link)


def pick(random: Random, weighted: dict[Any, float]) -> Any:
    """Returns one of the keys, drawn by weight."""
    return random.choices(list(weighted), list(weighted.values()))[0]
