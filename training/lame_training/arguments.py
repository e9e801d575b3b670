"""Checks arguments of the public functions, before any work begins.

NumPy's numbers and 0-dimensional arrays count as the Python numbers that they hold; a bool is no
number.
"""

from __future__ import annotations

import errno
import math
import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.errors import UsageError, shown

FolderLike = str | os.PathLike[str]


def whole_number(name: str, value: Any, least: int, most: int = 1 << 62) -> int:
    """Returns an integer of any type as an int; raises `UsageError` if it is out of range."""
    dtype = getattr(value, "dtype", None)
    # a bool is an int to Python, and True would mean one step
    if not (isinstance(value, bool) or dtype == np.bool_ or getattr(value, "ndim", 0)):
        try:
            number = operator.index(value)
        except TypeError:
            pass
        else:
            if least <= number <= most:
                return number
    upper = "" if most == 1 << 62 else f" to {most}"
    raise UsageError(
        f"`{name}` is {shown(repr(value))}: use {least}{upper or ' or more'} (a whole number)"
    )


def whole_numbers(name: str, value: Any, least: int) -> tuple[int, ...]:
    """Returns a sequence of integers as a tuple; raises `UsageError` for anything else."""
    # an array without axes is iterable by its type alone
    no_list = isinstance(value, str | bytes | dict) or getattr(value, "ndim", 1) == 0
    if no_list or not isinstance(value, Iterable):
        raise UsageError(f"`{name}` is {shown(repr(value))}: use a list of whole numbers")
    return tuple(whole_number(name, number, least) for number in value)


def real_number(name: str, value: Any, least: float, most: float = math.inf) -> float:
    """Returns a finite number of any type as a float; raises `UsageError` if it is out of range."""
    dtype = getattr(value, "dtype", None)
    if (
        not isinstance(value, str | bytes | bool)
        and dtype != np.bool_
        and not getattr(value, "ndim", 0)
    ):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            pass
        else:
            if math.isfinite(number) and least <= number <= most:
                return number
    upper = f" to {most:g}" if math.isfinite(most) else " or more"
    raise UsageError(f"`{name}` is {shown(repr(value))}: use {least:g}{upper}")


def switch(name: str, value: Any) -> bool:
    """Returns True or False; raises `UsageError` for anything that is neither."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise UsageError(f"`{name}` is {shown(repr(value))}: use True or False")


def folder_path(name: str, value: Any) -> Path:
    """Returns a path; raises `UsageError` for what is none.

    Such are bytes, and names that no file can have: with a null character or half a surrogate
    pair, or too long.
    """
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, str) and text and _can_be_a_name(text):
            return Path(text)
    raise UsageError(f"`{name}` is {shown(repr(value))}: use the path of a file or folder")


def _can_be_a_name(text: str) -> bool:
    try:
        Path(text).lstat()
    except ValueError:
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


def optional_path(name: str, value: Any) -> Path | None:
    """Returns a path, or None for None; raises `UsageError` for anything else."""
    return None if value is None else folder_path(name, value)


def texts(name: str, value: Any) -> list[str]:
    """Returns a sequence of texts as a list; raises `UsageError` for anything else."""
    # a single text is a sequence of texts, too: its characters
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
        try:
            values = list(value)
        except TypeError:  # an array without axes
            values = [value]
        if all(isinstance(item, str) for item in values):
            return [str(item) for item in values]
    raise UsageError(f"`{name}` is {shown(repr(value))}: use a list of texts")


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """Returns one of some texts; raises `UsageError` for anything else."""
    if isinstance(value, str) and value in choices:
        return str(value)
    raise UsageError(f"`{name}` is {shown(repr(value))}: use one of {', '.join(choices)}")
