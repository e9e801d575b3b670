"""A kind whose cases do what must be noticed, for the controls of the harness."""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import socket
import subprocess
import time
from pathlib import Path
from random import Random

import numpy as np
from lame_runtime import InputError

from fuzz.case import Case
from fuzz.kinds.base import Kind
from fuzz.outcome import check_equal, check_vectors

HARMLESS = ("answer", "refuse", "read inside", "write inside", "little memory")
FAULTS = {
    "raise": "raw",
    "panic": "raw",
    "two lines": "raw",
    "long message": "raw",
    "repeat the input": "raw",
    "sleep": "hang",
    "compute forever": "hang",
    "much memory": "over memory",
    "abort": "died",
    "exit": "died",
    "read outside": "outside",
    "read outside by a link": "outside",
    "read outside in C": "outside",
    "read the home folder": "outside",
    "write outside": "outside",
    "unpickle": "outside",
    "import what a file names": "outside",
    "open a pickle": "outside",
    "make a socket": "outside",
    "make a socket in C": "outside",
    "start a program": "outside",
    "start a program in C": "outside",
    "not finite": "wrong",
    "not of unit length": "wrong",
    "another vector": "wrong",
}
"""Actions, and the verdict that a case with each of them must get."""


class _PanicError(BaseException):
    """Stands for a panic of a Rust library, which is no `Exception`."""


class Planted(Kind):
    """Does what `case["do"]` says."""

    name = "planted"

    def generate(self, random: Random) -> Case:
        """Returns a case that does something harmless."""
        return {"do": random.choice(HARMLESS), "number": random.randrange(1000)}

    def prepare(self, case: Case) -> None:
        """Writes the files that cases read."""
        (self.room.work / "inside.txt").write_text("inside")
        (self.room.work / "weights.bin").write_bytes(b"")
        (self.room.work / "link.txt").symlink_to(self.room.elsewhere / "secret.txt")
        self._pickle = pickle.dumps(Path("a"))

    def run(self, case: Case) -> None:
        """Does it."""
        secret = self.room.elsewhere / "secret.txt"
        actions = {
            "answer": lambda: check_vectors(_unit(), 1, 4),
            "refuse": lambda: _raise(InputError("the picture is empty; give another one")),
            "read inside": lambda: Path("inside.txt").read_text(),
            "write inside": lambda: Path("made.txt").write_text("made"),
            "little memory": lambda: np.ones(1 << 20),
            "raise": lambda: _raise(ValueError("of another library")),
            "panic": lambda: _raise(_PanicError("index out of bounds")),
            # the class escapes line breaks, so they are put in afterward
            "two lines": lambda: _raise(_with_message("one\ntwo")),
            "long message": lambda: _raise(InputError("word " * 200)),
            "repeat the input": lambda: _raise(InputError(f"{case['text']}: not a picture")),
            "sleep": lambda: time.sleep(60),
            "compute forever": _compute,
            "much memory": lambda: np.ones(1 << 25).sum(),
            "abort": lambda: os.kill(os.getpid(), signal.SIGABRT),
            "exit": lambda: os._exit(3),
            "read outside": secret.read_text,
            "read outside by a link": lambda: Path("link.txt").read_text(),
            "read outside in C": lambda: _libc().fopen(os.fsencode(secret), b"r"),
            "read the home folder": lambda: _try(lambda: Path("/home/nobody").read_text()),
            "write outside": lambda: (self.room.elsewhere / "made.txt").write_text("made"),
            "unpickle": lambda: pickle.loads(self._pickle),
            "import what a file names": lambda: importlib.import_module("evil_module"),
            "open a pickle": lambda: Path("weights.bin").read_bytes(),
            "make a socket": socket.socket,
            "make a socket in C": lambda: _libc().socket(2, 1, 0),
            "start a program": lambda: _try(lambda: subprocess.run(["true"], check=False)),
            "start a program in C": lambda: _libc().system(b"true"),
            "not finite": lambda: check_vectors(_unit() * np.float32(np.nan), 1, 4),
            "not of unit length": lambda: check_vectors(_unit() * np.float32(2), 1, 4),
            "another vector": lambda: check_equal(_unit(), -_unit()),
        }
        actions[case["do"]]()


def _unit() -> np.ndarray:
    return np.full((1, 4), 0.5, dtype=np.float32)


def _raise(error: BaseException) -> None:
    raise error


def _with_message(message: str) -> InputError:
    error = InputError("")
    error.args = (message,)
    return error


def _try(call: object) -> None:
    try:
        call()  # type: ignore[operator]
    except OSError:
        return


def _compute() -> None:
    number = 0
    while True:
        number += 1


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
