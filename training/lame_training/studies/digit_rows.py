"""Tasks of growing difficulty on rows of digits, which ask what latent reasoning contributes.

A picture shows a row of two, four or six handwritten digits. The row is to be read ("read6"), to be
found by its digits ("find6"), or to be read in ascending order ("sort6"). The answer has several
parts, so an embedding that knows only some of them mistakes one candidate for another: the wrong
candidates are right for a row with one digit replaced or two digits exchanged. Training rows hold
such negatives only by chance, and the longer the row, the fewer of its digits distinguish it from
the others of a batch.

Digits are split by instance, and rows by combination: no two splits share a multiset of digits.

The files are those of `lame_training.data.digits`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lame_runtime.contract.prompts import IMAGE_PLACEHOLDER
from lame_runtime.files.atomic import atomic_folder

from lame_training.data.digits import (
    SPLITS,
    DigitPicture,
    Digits,
    Glyphs,
    TrainingRow,
    number_word,
    picture_candidates,
    text_candidates,
    write_evaluation_rows,
    write_training_rows,
)
from lame_training.folder_lock import reserved_folder

POOL_SIZE = 16
"""Candidates of a query at most, the right one included."""


def name_digits(digits: Digits) -> str:
    """Returns the digits in words as they are written, such as "seven three nine"."""
    return " ".join(number_word(digit) for digit in digits)


def name_sorted(digits: Digits) -> str:
    """Returns the digits in words in ascending order, such as "three seven nine"."""
    return name_digits(tuple(sorted(digits)))


@dataclass(frozen=True)
class RowTask:
    """A task on rows of `length` digits.

    A picture is asked for its answer or, if `finding`, an answer searches for its picture.
    """

    name: str
    text: str
    """The question, or the instruction of the search."""
    length: int
    answer: Callable[[Digits], str]
    finding: bool = False


READ, SORT, FIND = "Name the digits.", "Name the digits in ascending order.", "Find the row."
LENGTHS = (2, 4, 6)
TASKS = (
    *(RowTask(f"read{length}", READ, length, name_digits) for length in LENGTHS),
    *(RowTask(f"find{length}", FIND, length, name_digits, finding=True) for length in LENGTHS),
    *(RowTask(f"sort{length}", SORT, length, name_sorted) for length in LENGTHS),
)
HARDEST = ("read6", "find6", "sort6")
"""Tasks that arms are compared on. They have more queries, for less noise."""


@dataclass(frozen=True)
class RowSizes:
    """How much to write for one split."""

    pictures: int
    """Pictures of each length. In training, a task has one row for each."""
    queries: int = 0
    """Queries of a task; unused in training."""
    hardest: int = 0
    """Queries of each of the hardest tasks."""


FULL = {
    "train": RowSizes(10000),
    "valid": RowSizes(1600, 100, 400),
    "eval": RowSizes(4000, 400, 1000),
}
TINY = {"train": RowSizes(64), "valid": RowSizes(60, 4, 8), "eval": RowSizes(120, 6, 8)}


def write_reasoning(root: Path, sizes: dict[str, RowSizes] = FULL, seed: int = 0) -> None:
    """Writes the data set below `root`. The same seed gives the same bytes.

    Args:
        root: the folder to create; it appears when it is complete.
        sizes: how much to write, by split.
        seed: seeds the splits, the pictures and the rows.

    Raises:
        StorageError: `root` exists, cannot be written, or is being written by another process.
    """
    with reserved_folder(root, "command", "root"), atomic_folder(root) as fresh:
        # one generator for everything, so the order of the draws is part of the data set
        rng = np.random.default_rng(seed)
        rows = split_rows(rng)
        for split, glyphs in Glyphs.splits(rng).items():
            _write_split(fresh, split, glyphs, rows[split], sizes[split], rng)


def split_rows(rng: np.random.Generator) -> dict[str, dict[int, list[Digits]]]:
    """Divides all rows among the splits.

    Whole multisets go to a split, so all orders of a row's digits are in the same one.

    Returns:
        The rows of each split and length, sorted.
    """
    rows: dict[str, dict[int, list[Digits]]] = {split: {} for split in SPLITS}
    for length in LENGTHS:
        # a fixed order, which the permutation then indexes
        multisets = list(itertools.combinations_with_replacement(range(10), length))
        order = rng.permutation(len(multisets))
        start = 0
        for split, share in SPLITS.items():
            # the last split takes what rounding left
            stop = len(order) if split == "eval" else start + round(share * len(order))
            rows[split][length] = sorted(
                {row for i in order[start:stop] for row in itertools.permutations(multisets[i])}
            )
            start = stop
    return rows


def _write_split(
    root: Path,
    split: str,
    glyphs: Glyphs,
    rows: dict[int, list[Digits]],
    sizes: RowSizes,
    rng: np.random.Generator,
) -> None:
    """Writes pictures and tasks of one split; `rows` has the split's rows by length."""
    for folder in (root / "images" / split, root / split):
        folder.mkdir(parents=True)
    pictures: dict[int, list[DigitPicture]] = {}
    for length, possible in rows.items():
        pictures[length] = []
        # A search is among the split's pictures, so these must hold near misses. Training holds
        # them by chance only, see above.
        drawn = _random_rows(possible, rng) if split == "train" else near_groups(possible, rng)
        for number, digits in enumerate(itertools.islice(drawn, sizes.pictures)):
            path = f"images/{split}/{length}-{number:05d}.png"
            indices = [glyphs.any_of(digit, rng) for digit in digits]
            image = glyphs.compose(indices, rng, vary=split == "train")
            image.save(root / path)
            pictures[length].append(DigitPicture(path, digits))
    for task in TASKS:
        task_pictures = pictures[task.length]
        if split == "train":
            write_training_rows(
                root / split / f"{task.name}.parquet",
                [_training_row(task, picture) for picture in task_pictures],
            )
        else:
            write_evaluation_rows(
                root / split / f"{task.name}.jsonl", _queries(task, task_pictures, sizes, rng)
            )


def _random_rows(possible: list[Digits], rng: np.random.Generator) -> Iterator[Digits]:
    """Yields random rows without end."""
    while True:
        yield possible[int(rng.integers(len(possible)))]


def near_groups(possible: list[Digits], rng: np.random.Generator) -> Iterator[Digits]:
    """Yields random rows without end, each followed by up to 15 possible rows near it.

    So pictures that are drawn in this order hold near misses for each other.
    """
    # near rows of other splits must not appear in this one
    known = set(possible)
    for row in _random_rows(possible, rng):
        # sorted, because the order of a set is not specified
        near = sorted(known.intersection(near_rows(row)) - {row})
        yield row
        yield from (near[int(i)] for i in rng.permutation(len(near))[: POOL_SIZE - 1])


def _training_row(task: RowTask, picture: DigitPicture) -> TrainingRow:
    """Returns query and positive in the columns of MMEB's training files."""
    answer = task.answer(picture.digits)
    # MMEB's training files have the instruction in the text of the query
    if task.finding:
        return (f"{task.text}\n{answer}", "", IMAGE_PLACEHOLDER, picture.path)
    return (f"{IMAGE_PLACEHOLDER}\n{task.text}", picture.path, answer, "")


def _queries(
    task: RowTask, pictures: list[DigitPicture], sizes: RowSizes, rng: np.random.Generator
) -> list[dict[str, object]]:
    """Returns a task's evaluation rows: random pictures, each with a pool of near misses."""
    count = sizes.hardest if task.name in HARDEST else sizes.queries
    # repetitions only if there are fewer pictures than queries
    indices = rng.choice(len(pictures), size=count, replace=count > len(pictures))
    sample = [pictures[int(i)] for i in indices]
    if not task.finding:
        return [
            text_candidates(
                "",
                task.text,
                picture,
                task.answer(picture.digits),
                _near_answers(task, picture.digits, rng),
            )
            for picture in sample
        ]
    # several pictures may show the same row, in other handwriting
    by_row: dict[Digits, list[DigitPicture]] = defaultdict(list)
    for picture in pictures:
        by_row[picture.digits].append(picture)
    return [
        picture_candidates(
            task.text, task.answer(picture.digits), "", _near_pictures(picture, by_row, rng)
        )
        for picture in sample
    ]


def near_rows(row: Digits) -> Iterator[Digits]:
    """Yields the rows that differ from a row in one digit, or in the order of two.

    The row itself is among them, and some come twice.
    """
    # every digit at every place, the row's own as well: callers take a set and remove the row
    for place in range(len(row)):
        for digit in range(10):
            yield (*row[:place], digit, *row[place + 1 :])
    for first, second in itertools.combinations(range(len(row)), 2):
        swapped = list(row)
        swapped[first], swapped[second] = row[second], row[first]
        yield tuple(swapped)


def _near_answers(task: RowTask, row: Digits, rng: np.random.Generator) -> tuple[str, ...]:
    """Returns up to 15 random answers to rows near `row`."""
    # rows of any split: a text candidate needs no picture
    answers = sorted({task.answer(near) for near in near_rows(row)} - {task.answer(row)})
    return tuple(answers[int(i)] for i in rng.permutation(len(answers))[: POOL_SIZE - 1])


def _near_pictures(
    right: DigitPicture, by_row: dict[Digits, list[DigitPicture]], rng: np.random.Generator
) -> list[str]:
    """Returns paths: the right picture, then one for each of the 15 rows nearest to its row.

    The distance of two rows is the number of places at which they differ.
    """
    # other pictures of the same row would be right as well
    others = [row for row in by_row if row != right.digits]
    # the random number breaks ties, or small digits would be preferred
    distances = [
        (sum(a != b for a, b in zip(row, right.digits, strict=True)), rng.random())
        for row in others
    ]
    order = sorted(range(len(others)), key=distances.__getitem__)
    nearest = [others[i] for i in order[: POOL_SIZE - 1]]
    return [right.path, *(by_row[row][int(rng.integers(len(by_row[row])))].path for row in nearest)]
