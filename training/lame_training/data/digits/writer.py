"""Writes the digits data set: pictures, training rows and evaluation rows of every task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from lame_runtime.contract.prompts import IMAGE_PLACEHOLDER
from lame_runtime.files.atomic import atomic_folder

from lame_training.data.digits.glyphs import DigitPicture, Glyphs
from lame_training.data.digits.questions import (
    CLASSIFY,
    FIND_PICTURE,
    FIND_SAME_SUM,
    QUESTIONS,
    number_word,
    numbers,
)
from lame_training.data.digits.row_files import (
    TrainingRow,
    picture_candidates,
    text_candidates,
    write_evaluation_rows,
    write_training_rows,
)
from lame_training.folder_lock import reserved_folder

T = TypeVar("T")


@dataclass(frozen=True)
class SplitSize:
    """How much to write for one split."""

    pictures: dict[int, int]
    """Number of pictures, by number of digits."""
    rows: int
    """Number of rows per task."""


FULL = {
    "train": SplitSize({1: 4000, 2: 8000, 3: 8000, 4: 2000}, 8000),
    "valid": SplitSize({1: 180, 2: 300, 3: 300, 4: 60}, 150),
    "eval": SplitSize({1: 400, 2: 500, 3: 500, 4: 100}, 250),
}
TINY = {
    "train": SplitSize({1: 60, 2: 120, 3: 120, 4: 30}, 120),
    "valid": SplitSize({1: 20, 2: 60, 3: 80, 4: 10}, 10),
    "eval": SplitSize({1: 30, 2: 80, 3: 110, 4: 10}, 24),
}
"""`TINY` is for tests: the same formats in a few hundred files."""


def write_digits(root: Path, sizes: dict[str, SplitSize] = FULL, seed: int = 0) -> None:
    """Writes the data set below `root`. The same seed gives the same bytes.

    Args:
        root: the folder to create; it appears when it is complete.
        sizes: how much to write, by split.
        seed: seeds the splits, the pictures and the rows.

    Raises:
        StorageError: `root` exists, cannot be written, or is being written by another process.
    """
    with reserved_folder(root, "command", "root"), atomic_folder(root) as fresh:
        # One generator for everything, so the order of the draws is part of the data set: a task
        # that is added goes to the end, or every published figure has to be measured again.
        rng = np.random.default_rng(seed)
        for split, glyphs in Glyphs.splits(rng).items():
            pictures = _write_pictures(fresh, split, glyphs, sizes[split], rng)
            # Validation has the format of evaluation, so that one reader scores both.
            if split == "train":
                _write_training_tasks(fresh / "train", pictures, sizes[split].rows, rng)
            else:
                _write_evaluation_tasks(fresh / split, pictures, sizes[split].rows, rng)


def _write_pictures(
    root: Path, split: str, glyphs: Glyphs, size: SplitSize, rng: np.random.Generator
) -> dict[int, list[DigitPicture]]:
    """Writes a split's pictures and returns them by number of digits."""
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[int, list[DigitPicture]] = {}
    for length, count in size.pictures.items():
        pictures[length] = []
        for number in range(count):
            # With replacement: a picture may show one handwritten digit twice.
            indices = rng.integers(len(glyphs.images), size=length)
            path = f"images/{split}/{length}-{number:05d}.png"
            glyphs.compose(indices.tolist(), rng, vary=split == "train").save(root / path)
            digits = tuple(int(glyphs.labels[index]) for index in indices)
            pictures[length].append(DigitPicture(path, digits))
    return pictures


def _write_training_tasks(
    folder: Path, pictures: dict[int, list[DigitPicture]], rows: int, rng: np.random.Generator
) -> None:
    """Writes MMEB-train's rows: one parquet file per task."""

    def write(task: str, training_rows: list[TrainingRow]) -> None:
        write_training_rows(folder / f"{task}.parquet", training_rows)

    folder.mkdir(parents=True, exist_ok=True)
    ask = f"{IMAGE_PLACEHOLDER}\n{CLASSIFY}"
    # Each picture once: `digit` is the warm-up task, which reads single digits.
    write("digit", [(ask, p.path, number_word(p.digits[0]), "") for p in pictures[1]])
    for question in QUESTIONS:
        ask = f"{IMAGE_PLACEHOLDER}\n{question.text}"
        sample = [_pick(pictures[_pick(question.lengths, rng)], rng) for _ in range(rows)]
        write(question.name, [(ask, p.path, question.answer(p.digits), "") for p in sample])
    for length in (2, 3):
        sample = [_pick(pictures[length], rng) for _ in range(rows)]
        write(
            f"find{length}",
            [
                (f"{FIND_PICTURE}\n{_describe(p.digits)}", "", IMAGE_PLACEHOLDER, p.path)
                for p in sample
            ],
        )
    # A pair needs two pictures, and sums such as 0 and 18 may have only one.
    groups = [group for group in _by_sum(pictures[2]).values() if len(group) > 1]
    ask = f"{IMAGE_PLACEHOLDER}\n{FIND_SAME_SUM}"
    same: list[TrainingRow] = []
    for _ in range(rows):
        group = _pick(groups, rng)
        first, second = rng.choice(len(group), size=2, replace=False)
        same.append((ask, group[first].path, IMAGE_PLACEHOLDER, group[second].path))
    write("same2", same)


def _write_evaluation_tasks(
    folder: Path, pictures: dict[int, list[DigitPicture]], rows: int, rng: np.random.Generator
) -> None:
    """Writes MMEB-eval's rows: one JSONL file per task; the first candidate is the right one."""

    def write(task: str, evaluation_rows: list[dict[str, Any]]) -> None:
        write_evaluation_rows(folder / f"{task}.jsonl", evaluation_rows)

    folder.mkdir(parents=True, exist_ok=True)
    sample = [_pick(pictures[1], rng) for _ in range(2 * rows)]
    write(
        "digit",
        [text_candidates(CLASSIFY, "", p, number_word(p.digits[0]), numbers(10)) for p in sample],
    )
    for question in QUESTIONS:
        sample = [_pick(pictures[_pick(question.lengths, rng)], rng) for _ in range(rows)]
        # In MMEB the question is a row's text and the instruction is the task's; here it is empty.
        write(
            question.name,
            [
                text_candidates("", question.text, p, question.answer(p.digits), question.answers)
                for p in sample
            ],
        )
    for length in (2, 3):
        groups = _by_sum(pictures[length])
        searches: list[dict[str, Any]] = []
        for _ in range(rows):
            digits = _pick(pictures[length], rng).digits
            paths = _one_per_sum(groups, sum(digits), rng)
            searches.append(picture_candidates(FIND_PICTURE, _describe(digits), "", paths))
        write(f"find{length}", searches)
    write("same2", _same_sum_queries(pictures[2], 2 * rows, rng))


def _same_sum_queries(
    pictures: list[DigitPicture], count: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Returns queries that are pictures and search for another picture with the same sum."""
    groups = _by_sum(pictures)
    ask = f"{IMAGE_PLACEHOLDER}\n{FIND_SAME_SUM}"
    queries: list[dict[str, Any]] = []
    while len(queries) < count:
        query = _pick(pictures, rng)
        total = sum(query.digits)
        others = groups | {total: [picture for picture in groups[total] if picture is not query]}
        if others[total]:  # else the query is the only picture with its sum
            paths = _one_per_sum(others, total, rng)
            queries.append(picture_candidates(ask, "", query.path, paths))
    return queries


def _by_sum(pictures: list[DigitPicture]) -> dict[int, list[DigitPicture]]:
    groups: dict[int, list[DigitPicture]] = defaultdict(list)
    for picture in pictures:
        groups[sum(picture.digits)].append(picture)
    return groups


def _one_per_sum(
    groups: dict[int, list[DigitPicture]], total: int, rng: np.random.Generator
) -> list[str]:
    """Returns the path of one picture per sum, that with sum `total` first."""
    # One per sum, so that exactly one candidate is right.
    return [_pick(groups[value], rng).path for value in [total, *sorted(set(groups) - {total})]]


def _pick(items: Sequence[T], rng: np.random.Generator) -> T:
    # Not `rng.choice`, which would convert the items to an array.
    return items[int(rng.integers(len(items)))]


def _describe(digits: Sequence[int]) -> str:
    return f"digits that add up to {number_word(sum(digits))}"
