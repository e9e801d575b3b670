"""The verdict on one call."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lame_runtime import LameError

VERDICTS = ("vector", "refused", "raw", "hang", "over memory", "died", "outside", "wrong")
"""Verdicts; all but the first two are faults.

    vector        the call returned, and what it returned is right as far as the case knows
    refused       an error of the project's own, or exit code 1 or 2, in one printable line
    raw           any other exception, or a message that is not one short printable line
    hang          no answer within the limit
    over memory   the peak of resident memory grew beyond the bound
    died          the process ended
    outside       something was opened, started or connected to that is not the input itself
    wrong         a vector that is not finite, not of unit length, or not the right one
"""
FAULTS = VERDICTS[2:]
LONGEST_MESSAGE = 500
LONGEST_QUOTE = 80
"""Number of characters of an input that a message may repeat (`lame_runtime.errors.shown`)."""
PACKAGES = ("lame_runtime", "lame_training", "lame_export")


class WrongError(AssertionError):
    """A call answered, but not what is right."""


class RefusedError(Exception):
    """A command line ended with exit code 1 or 2; the message is its last line on stderr."""


@dataclass(frozen=True)
class Outcome:
    """Represents how a call ended.

    Attributes:
        verdict: one of `VERDICTS`.
        text: the message of the error, or what is wrong.
        place: for a raw exception, the innermost function of ours that it passed through.
        megabytes: growth of resident memory at its peak.
    """

    verdict: str
    text: str = ""
    place: str = ""
    megabytes: int = 0

    @property
    def is_fault(self) -> bool:
        """Whether this must not happen."""
        return self.verdict in FAULTS

    @property
    def signature(self) -> str:
        """Names the fault, so that one fault is reported once however many cases show it."""
        if self.verdict == "raw":
            return f"raw {self.text.split(':')[0]} {self.place}"
        # figures differ between cases of one fault
        return f"{self.verdict} {re.sub(r'[0-9][0-9.]*', '#', self.text)[:60]}"


def judge(call: Callable[[], None], texts: list[str]) -> Outcome:
    """Runs a call and returns the verdict.

    Args:
        call: raises nothing if all is right, `WrongError` for a wrong answer.
        texts: the input's texts, which a message must not repeat at length.
    """
    try:
        call()
    except WrongError as error:
        return Outcome("wrong", str(error)[:300])
    except (LameError, RefusedError) as error:
        if fault := message_fault(str(error), texts):
            return Outcome("raw", f"message: {fault}: {str(error)[:160]!r}", _place(error))
        return Outcome("refused", str(error))
    except BaseException as error:  # a panic of a Rust library is no Exception
        text = f"{type(error).__name__}: {str(error)[:200]}"
        return Outcome("raw", " ".join(text.split()), _place(error))
    return Outcome("vector")


def message_fault(message: str, texts: list[str]) -> str:
    """Returns what is wrong with an error's message, or an empty string."""
    if not message.strip():
        return "is empty"
    if not message.isprintable():
        return "is not one printable line"
    if len(message) >= LONGEST_MESSAGE:
        return f"has {len(message)} characters"
    # a little more, because quotes and a cut in the middle shift what is repeated
    length = LONGEST_QUOTE + 20
    windows = {message[start : start + length] for start in range(len(message) - length + 1)}
    if any(window in text for text in texts if len(text) >= length for window in windows):
        return f"repeats more than {LONGEST_QUOTE} characters"
    return ""


def check_vectors(vectors: object, rows: int, dim: int) -> None:
    """Checks that an array is float32 (rows, dim) with finite unit rows; raises `WrongError`."""
    if not isinstance(vectors, np.ndarray):
        raise WrongError(f"a {type(vectors).__name__} is no array")
    if vectors.dtype != np.float32 or vectors.shape != (rows, dim):
        raise WrongError(f"{vectors.dtype} {vectors.shape} is not float32 {(rows, dim)}")
    if not np.isfinite(vectors).all():
        raise WrongError("not finite")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if rows and np.abs(lengths - 1).max() > 1e-4:
        raise WrongError(f"a length is {lengths[np.abs(lengths - 1).argmax()]:.6g}")


def check_equal(vectors: np.ndarray, expected: np.ndarray, least: float = 0.9999) -> None:
    """Checks that rows are equal up to rounding; raises `WrongError` with the smallest cosine."""
    cosine = float((vectors.astype(np.float64) * expected).sum(-1).min())
    if not cosine >= least:
        raise WrongError(f"another vector: cosine {cosine:.4f}")


def _place(error: BaseException) -> str:
    """Returns the innermost function of the project that an exception passed through."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if any(package in path.parts for package in PACKAGES):
            place = f"{path.name}:{frame.f_code.co_name}:{line}"
    return place
