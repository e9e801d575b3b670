"""Checks paths and lists that are arguments of the public functions, before any work begins.

Numbers, switches and names are checked by `lame_runtime.arguments`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lame_runtime.arguments import integer
from lame_runtime.errors import UsageError, shown

FolderLike = str | os.PathLike[str]


def whole_numbers(name: str, value: Any, least: int) -> tuple[int, ...]:
    """Returns a sequence of integers as a tuple; raises `UsageError` for anything else."""
    # an array without axes is iterable by its type alone
    no_list = isinstance(value, str | bytes | dict) or getattr(value, "ndim", 1) == 0
    if no_list or not isinstance(value, Iterable):
        raise UsageError(f"`{name}` is {shown(repr(value))}: use a list of whole numbers")
    return tuple(integer(name, number, least) for number in value)


def folder_path(name: str, value: Any) -> Path:
    """Returns a path; raises `UsageError` for anything else.

    That includes bytes and names that no file can have: with a null character or half a surrogate
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
