"""Defines the ranges of fields that are read from JSON, written beside the fields themselves.

    width: Annotated[int, Between(1, 4096)]
    name: Annotated[str, Text(100, printable=True)]

`contract.strict_json` refuses a value outside its range when it reads a file. A file of unknown
origin may hold any number, and a size of zero or of 10^30 would otherwise show up far from the
file: as a division by zero, as memory that does not exist, or as a vector by senseless rules.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

from lame_runtime.errors import shown


@dataclass(frozen=True)
class Between:
    """Allows the numbers from `least` to `most`, both included."""

    least: float
    most: float
    or_nan: bool = False
    """Whether NaN, for a figure that could not be measured, is allowed as well."""

    def complaint(self, value: float) -> str | None:
        """Returns what is wrong with a number; None if it is in the range."""
        # a comparison with NaN is false, so NaN is refused unless it is asked for
        if self.least <= value <= self.most or (self.or_nan and math.isnan(value)):
            return None
        return f"is {shown(_number(value))}: must be {_number(self.least)} to {_number(self.most)}"


@dataclass(frozen=True)
class Text:
    """Allows texts of at most `most` characters without lone surrogates."""

    most: int
    least: int = 0
    printable: bool = False
    """Whether control characters and line breaks are refused, because the text is printed."""
    pattern: str = ""
    """Regular expression that the whole text must match; empty for any text."""

    def complaint(self, value: str) -> str | None:
        """Returns what is wrong with a text; None if it is allowed."""
        if not self.least <= len(value) <= self.most:
            return f"has {len(value):,} characters: must have {self.least:,} to {self.most:,}"
        if any("\ud800" <= character <= "\udfff" for character in value):
            return f"is {shown(value)!r}: must be Unicode, without lone surrogates"
        if self.printable and not value.isprintable():
            return f"is {shown(value)!r}: must not hold control characters"
        if self.pattern and not re.fullmatch(self.pattern, value, re.ASCII):
            return f"is {shown(value)!r}: must match {self.pattern}"
        return None


@dataclass(frozen=True)
class Length:
    """Allows lists and objects of `least` to `most` entries."""

    most: int
    least: int = 0

    def complaint(self, value: list[object] | dict[str, object]) -> str | None:
        """Returns what is wrong with a list or an object; None if it is allowed."""
        if self.least <= len(value) <= self.most:
            return None
        return f"has {len(value):,} entries: must have {self.least:,} to {self.most:,}"


Constraint = Between | Text | Length
"""Range of a field, as an argument of `Annotated`."""

Name = Annotated[str, Text(100, 1, printable=True)]
"""A short name that is printed."""
Line = Annotated[str, Text(1000, printable=True)]
"""One line that is printed."""
Sha256 = Annotated[str, Text(64, pattern="[0-9a-f]{64}")]
"""A SHA-256 in hexadecimal digits."""
Count = Annotated[int, Between(0, 10**12)]
"""A count: zero or more."""
Figure = Annotated[float, Between(-1e300, 1e300, or_nan=True)]
"""A measured number; NaN if it could not be measured."""


def _number(value: float) -> str:
    try:
        return f"{value:,}" if isinstance(value, int) or value.is_integer() else f"{value:g}"
    except ValueError:  # an integer of thousands of digits has no text
        return "a number with thousands of digits"
