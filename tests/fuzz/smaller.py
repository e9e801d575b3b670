"""Cuts a case down while its fault stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from fuzz.case import Case

SECONDS = 15.0


def smaller(case: Case, shows: Callable[[Case], bool], seconds: float = SECONDS) -> Case:
    """Returns a case that still shows the fault, with shorter lists, bytes and texts.

    Args:
        case: the case.
        shows: whether a case shows the same fault.
        seconds: time after which the smallest case so far is returned.
    """
    end = time.monotonic() + seconds
    changed = True
    while changed:
        changed = False
        for shorter in _shorter(case):
            if time.monotonic() > end:
                return case
            if shows(shorter):
                case, changed = shorter, True
                break
    return case


def _shorter(value: Any) -> Iterator[Any]:
    """Yields values with one piece less, the largest pieces first."""
    if isinstance(value, dict):
        for key, entry in value.items():
            for shorter in _shorter(entry):
                yield {**value, key: shorter}
    elif isinstance(value, list):
        if len(value) > 1:
            yield from (value[:index] + value[index + 1 :] for index in range(len(value)))
        for index, entry in enumerate(value):
            yield from ([*value[:index], short, *value[index + 1 :]] for short in _shorter(entry))
    elif isinstance(value, bytes | str) and len(value) > 16:
        steps = [len(value) >> power for power in (1, 2, 3, 4)]
        yield from (part for step in steps if step for part in (value[:-step], value[step:]))
