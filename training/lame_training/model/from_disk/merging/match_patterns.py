"""Matches the names of layers with an adapter's patterns, as PEFT does.

`run_limited` runs it, because a regular expression may take forever. It imports the standard
library alone.
"""

from __future__ import annotations

import re
from typing import Any


def ends_with(name: str, endings: list[str]) -> bool:
    """Returns whether the name is one of the endings, or ends with one after a dot."""
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def is_targeted(name: str, settings: dict[str, Any]) -> bool:
    """Returns whether the settings give the layer of this name an adapter."""
    exclude, targets = settings["exclude_modules"], settings["target_modules"]
    if exclude and (
        re.fullmatch(exclude, name) if isinstance(exclude, str) else ends_with(name, exclude)
    ):
        return False
    # a layer that is saved as a whole has no adapter
    saved = settings["modules_to_save"]
    if any(re.match(rf"(^|.*\.){module}($|\..*)", name) for module in saved):
        return False
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return name in targets or (ends_with(name, targets) and is_in_chosen_block(name, settings))


def is_in_chosen_block(name: str, settings: dict[str, Any]) -> bool:
    """Returns whether `layers_to_transform` names the block that the layer is in."""
    blocks, patterns = settings["layers_to_transform"], settings["layers_pattern"]
    if not blocks:
        return True
    expressions = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in patterns]
    for expression in expressions or [r".*?\.[^.]*\.(\d+)\."]:
        if match := re.match(expression, name):
            return int(match.group(1)) in blocks
    return False


def first_match(names: list[str], patterns: list[str]) -> str | None:
    """Returns the first pattern that matches a layer's name, or the end of it after a dot.

    A layer has several names, of which the first that any pattern matches counts.
    """
    for name in names:
        for pattern in patterns:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return pattern
    return None


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Returns the targeted names of each group, and the patterns that apply to adapted layers."""
    settings = question["settings"]
    try:
        return {
            "targeted": [
                [name for name in names if is_targeted(name, settings)]
                for names in question["groups"]
            ],
            "rank": [first_match(names, settings["rank_pattern"]) for names in question["adapted"]],
            "alpha": [
                first_match(names, settings["alpha_pattern"]) for names in question["adapted"]
            ],
        }
    except re.error as error:
        raise ValueError(f"{error.pattern!r} is not a regular expression: {error}") from None
