"""The questions about a row of digits, and numbers in words, which are the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Digits = tuple[int, ...]
"""The digits of a picture, left to right."""

UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = {2: "twenty", 3: "thirty"}


def number_word(value: int) -> str:
    """Returns a number from 0 to 39 in English; four digits add up to 36 at most."""
    # Written out instead of using a library: these words are part of the data set's bytes.
    if value < 20:
        return UNITS[value]
    tens, unit = divmod(value, 10)
    return TENS[tens] + (f"-{UNITS[unit]}" if unit else "")


def numbers(stop: int) -> tuple[str, ...]:
    """Returns the numbers below `stop` in words."""
    return tuple(number_word(value) for value in range(stop))


@dataclass(frozen=True)
class DigitQuestion:
    """A question about a row of digits."""

    name: str
    """The task's name."""
    text: str
    # A question about sums needs its length fixed, because the answers depend on it.
    lengths: tuple[int, ...]
    """Numbers of digits of the pictures that the question is asked about."""
    answer: Callable[[Digits], str]
    answers: tuple[str, ...]
    """All possible answers: the candidates that evaluation ranks."""


def _evens(digits: Digits) -> str:
    return number_word(sum(digit % 2 == 0 for digit in digits))


def _ascending(digits: Digits) -> str:
    return "yes" if list(digits) == sorted(digits) else "no"


SUM = "What do the digits add up to?"
_ANY = (2, 3, 4)
QUESTIONS = (
    # Sums are separate tasks by length, so that a curriculum can begin with two digits.
    DigitQuestion("sum2", SUM, (2,), lambda d: number_word(sum(d)), numbers(19)),
    DigitQuestion("sum3", SUM, (3,), lambda d: number_word(sum(d)), numbers(28)),
    DigitQuestion(
        "largest", "Which digit is the largest?", _ANY, lambda d: number_word(max(d)), numbers(10)
    ),
    DigitQuestion("evens", "How many digits are even?", _ANY, _evens, numbers(5)),
    DigitQuestion(
        "second",
        "Which digit is second from the left?",
        _ANY,
        lambda d: number_word(d[1]),
        numbers(10),
    ),
    DigitQuestion(
        "ascending", "Are the digits in ascending order?", _ANY, _ascending, ("yes", "no")
    ),
)

CLASSIFY = "Name the digit."
FIND_PICTURE = "Find the picture."
FIND_SAME_SUM = "Find a picture with the same sum."
