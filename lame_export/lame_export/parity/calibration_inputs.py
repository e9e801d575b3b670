"""Selects inputs of a data set to calibrate on, and holds some back to evaluate the result on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from lame_runtime.bundle.golden import EXTREMES
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.prompts import Input, Picture, input_key
from lame_runtime.errors import StorageError
from lame_training.data import DataSet, read_pairs

from lame_export.parity.made_inputs import composed, largest_picture, longest_text, random_text

CALIBRATION = 128
"""Default number of calibration inputs of each modality."""
RANDOM_TEXT = "any text"
"""Modality of texts of random tokens, as certificates name it."""
RANDOM_TEXTS = 8
"""Number of texts of random tokens that quantization is evaluated on."""
RoleInput = tuple[str, Input]
"""A role, and an input that is embedded with it."""


def calibration_inputs(
    data: Path, amount: int, preparer: Preparer, seed: int = 0
) -> list[RoleInput]:
    """Returns training inputs: queries and positives of all tasks, and inputs composed of them.

    Args:
        data: the root of an MMEB-style data set.
        amount: maximum number of inputs of each modality.
        preparer: the contract and tokenizer.
        seed: seed of the random choice.

    Raises:
        StorageError: the data set has no training rows.
    """
    by_modality: dict[str, list[RoleInput]] = defaultdict(list)
    # a picture may be a query of one row and the positive of another; it is used once
    seen = set()
    for role, item in training_inputs(data):
        if input_key(item) not in seen:
            seen.add(input_key(item))
            by_modality[item.modality].append((role, item))
    rng = np.random.default_rng(seed)
    drawn = [
        entries[int(index)]
        for entries in by_modality.values()
        for index in rng.permutation(len(entries))[:amount]
    ]
    # data sets rarely contain videos or several pictures per input, but users' inputs do
    mixed = composed([item for _, item in drawn], amount, preparer, seed)
    return drawn + [("document", item) for item in mixed]


def held_out(
    inputs: Sequence[RoleInput], preparer: Preparer, share: int = 4, most: int = 16
) -> tuple[dict[str, list[RoleInput]], dict[str, list[RoleInput]]]:
    """Splits inputs by modality into those to calibrate on and those to evaluate the result on.

    Both parts get, as modalities of their own, a text as long and a picture as large as the
    contract allows, and texts of random tokens.

    Args:
        inputs: what `calibration_inputs` returned.
        preparer: the contract and tokenizer.
        share: every `share`-th input is held back; a modality with fewer inputs is used for both.
        most: maximum number of inputs of a modality that are held back.

    Returns:
        Inputs to calibrate on and inputs to evaluate on, each by modality.
    """
    by_modality: dict[str, list[RoleInput]] = defaultdict(list)
    for role, item in inputs:
        by_modality[item.modality].append((role, item))
    measured: dict[str, list[RoleInput]] = {}
    trial: dict[str, list[RoleInput]] = {}
    for modality, entries in by_modality.items():
        places = range(0, len(entries), share)[:most] if len(entries) >= share else range(0)
        trial[modality] = [entries[place] for place in places] or entries
        measured[modality] = [entry for place, entry in enumerate(entries) if place not in places]
    for part in (measured, trial):
        _add_extremes(part, preparer)
    rng = np.random.default_rng(0)
    # three times as many to calibrate on, because a range needs more texts than a comparison
    for part, count in ((measured, 3 * RANDOM_TEXTS), (trial, RANDOM_TEXTS)):
        part[RANDOM_TEXT] = [
            ("query", Input(text=random_text(preparer, rng), instruction="")) for _ in range(count)
        ]
    return measured, trial


def training_inputs(data: Path) -> Iterator[RoleInput]:
    """Yields the queries and positives of all training rows.

    Raises:
        StorageError: the data set has no training rows.
    """
    paths = sorted((data / "train").glob("*.parquet"))
    if not paths:
        raise StorageError(
            f"{data}: has no train/TASK.parquet to calibrate on; "
            "`data` must name the root of an MMEB-style data set"
        )
    for path in paths:
        for pair in read_pairs(data, DataSet(path.stem, "none")):
            yield "query", pair.query
            yield "document", pair.positive


def _add_extremes(by_modality: dict[str, list[RoleInput]], preparer: Preparer) -> None:
    """Adds the longest text and the largest picture that the contract allows."""
    entries = [entry for part in by_modality.values() for entry in part]
    parts = [part for _, item in entries for part in item.parts]
    texts = [part for part in parts if isinstance(part, str)]
    pictures = [part for part in parts if isinstance(part, Picture)]
    # no instruction, as in `longest_text`: with one, the text would exceed the limit
    if texts:
        text = Input(text=longest_text(texts, preparer), instruction="")
        by_modality[EXTREMES[0]] = [("query", text)]
    if pictures:
        picture = Input(image=largest_picture(pictures[0], preparer), instruction="")
        by_modality[EXTREMES[1]] = [("document", picture)]
