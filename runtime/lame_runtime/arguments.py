"""Converts arguments of the public functions, and refuses wrong ones with a `UsageError`.

Numbers come from users as Python's, as NumPy scalars and as arrays without a dimension. All of them
count; bools do not, because `True` where a number is meant is a mistake. Every message names the
argument in backticks and repeats at most 80 characters of its value.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from lame_runtime.errors import UsageError, shown

Name = TypeVar("Name", bound=str)

MAX_PIXELS = 10**12
"""Largest limit on pixels or frames that an argument may set; larger ones could overflow."""
MIN_FPS, MAX_FPS = 1e-3, 1e4
_MOST = (1 << 63) - 1
_WHOLE = "a whole number from "


def described(value: object) -> str:
    """Returns a value as a message repeats it: as in code, on one line, cut to 80 characters."""
    try:
        # `str` of numbers, because NumPy's `repr` shows their type as well
        return shown(value if isinstance(value, numbers.Number) else repr(value))
    except Exception:  # whatever a user's class raises
        return f"a {type(value).__name__}"


def integer(name: str, value: object, least: int, most: int | None = None, hint: str = "") -> int:
    """Returns a whole number as an `int`.

    Args:
        name: the argument, for the message.
        value: an `int`, or anything with `__index__` that is not a bool.
        least: smallest number that is accepted.
        most: largest number that is accepted; None accepts what 64 bits hold.
        hint: end of the message.

    Raises:
        UsageError: not a whole number, or out of range.
    """
    try:
        whole = None if _is_bool(value) else operator.index(value)  # type: ignore[arg-type]
    except Exception:  # whatever a user's class raises
        whole = None
    if whole is None or not least <= whole <= (_MOST if most is None else most):
        kind = "" if whole is not None else "a whole number, " if most is None else _WHOLE
        upper = " or more" if most is None else f" to {most:,}"
        raise UsageError(f"`{name}` is {described(value)}: use {kind}{least:,}{upper}{hint}")
    return whole


def number(name: str, value: object, least: float, most: float = math.inf) -> float:
    """Returns a real number as a `float`: also a fraction, a decimal or a NumPy number.

    Raises:
        UsageError: not a number, NaN, or out of range.
    """
    real: Any = value
    # an array without a dimension holds one number
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        real = value.item()
    try:
        is_real = isinstance(real, numbers.Real | Decimal) and not _is_bool(real)
        converted = float(real) if is_real else None
    except (OverflowError, ValueError):
        converted = None
    if converted is None or not math.isfinite(converted) or not least <= converted <= most:
        limits = (
            f"from {least:,g} to {most:,g}" if math.isfinite(most) else f"of {least:,g} or more"
        )
        raise UsageError(f"`{name}` is {described(value)}: use a number {limits}")
    return converted


def switch(name: str, value: object) -> bool:
    """Returns a bool; raises `UsageError` for anything else, such as the text "false"."""
    if not _is_bool(value) or getattr(value, "shape", ()) != ():
        raise UsageError(f"`{name}` is {described(value)}: use True or False")
    return bool(value)


def optional_text(name: str, value: object) -> str | None:
    """Returns a `str` or None; raises `UsageError` for anything else."""
    if value is not None and not isinstance(value, str):
        raise UsageError(f"`{name}` is {described(value)}: give a string or None")
    return value


def choice(name: str, value: object, choices: Iterable[Name]) -> Name:
    """Returns the choice that equals `value`; raises `UsageError` if none does."""
    names = list(choices)
    # the type first, because an array compares with every name at once
    for option in names if isinstance(value, str) else ():
        if option == value:
            return option
    raise UsageError(f"`{name}` is {described(value)}: use {shown(', '.join(names), 400)}")


def name_list(name: str, value: object) -> list[str] | None:
    """Returns a list of strings or None; raises `UsageError` for a string, which is iterable too.

    An empty list counts as None.
    """
    if value is None:
        return None
    if isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
        return list(value) or None
    raise UsageError(f"`{name}` is {described(value)}: give a list of names, such as ['fp32']")


def folder_path(name: str, value: object) -> Path:
    """Returns the path of a folder, made absolute, so that it outlives `os.chdir`.

    Raises:
        UsageError: not a path, empty, or not a name that this system can have.
    """
    try:
        text = os.fspath(value)  # type: ignore[call-overload]
        if not isinstance(text, str) or not text:
            raise TypeError
    except TypeError:
        raise UsageError(f"`{name}` is {described(value)}: give the path of a folder") from None
    try:
        path = Path(text).absolute()
        # a name that is too long, or holds a null character or half a surrogate pair
        path.stat()
    except FileNotFoundError:
        # as it was given, because the caller's message will say that it is missing
        return Path(text)
    except PermissionError:
        return path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"`{name}` is {described(text)}: cannot be the path of a folder ({reason})"
        ) from None
    return path


def _is_bool(value: object) -> bool:
    # NumPy's and PyTorch's bools are no `bool`, and one of them counts as an index
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
