"""Tasks of growing difficulty on the digits, for asking what latent reasoning is good for; same files as `digits`.

A row of two, four or six digits is to be read, to be found by its digits, or to be read in ascending order. What is
asked for has several parts, so that an embedding that knows only some of them mistakes one candidate for another: the
wrong candidates are right for a row with another digit, or with two digits exchanged. Training rows hold such negatives
only by chance, and the longer the row, the fewer of its digits tell it from the rest of a batch. Digits are split by
instance, and rows by combination: no two splits share a multiset.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lame_runtime.atomic import atomic_folder
from lame_runtime.contract.prompts import IMAGE_PLACEHOLDER

from lame_training.digits import SPLITS, Glyphs, Picture, number_word, to_pictures, to_texts, write_jsonl, write_parquet

Row = tuple[int, ...]
POOL = 16
"""Candidates of a query at most, the right one among them."""


def name_digits(row: Row) -> str:
    """What is written: "seven three nine"."""
    return " ".join(number_word(digit) for digit in row)


def name_sorted(row: Row) -> str:
    """In ascending order: "three seven nine"."""
    return name_digits(tuple(sorted(row)))


@dataclass(frozen=True)
class Task:
    """One task on rows of `length` digits: the answer to a question about a picture or, `finding`, the picture of an answer."""

    name: str
    text: str
    """The question, or the instruction of a search."""
    length: int
    answer: Callable[[Row], str]
    finding: bool = False


READ, SORT, FIND = "Name the digits.", "Name the digits in ascending order.", "Find the row."
LENGTHS = (2, 4, 6)
TASKS = (
    *(Task(f"read{length}", READ, length, name_digits) for length in LENGTHS),
    *(Task(f"find{length}", FIND, length, name_digits, finding=True) for length in LENGTHS),
    *(Task(f"sort{length}", SORT, length, name_sorted) for length in LENGTHS),
)
HARDEST = ("read6", "find6", "sort6")


@dataclass(frozen=True)
class Sizes:
    """How much to write: pictures per length; a task has as many rows in training and `queries` in the other splits."""

    pictures: int
    queries: int = 0
    hardest: int = 0
    """Queries of the hardest tasks."""


FULL = {"train": Sizes(10000), "valid": Sizes(1600, 100, 400), "eval": Sizes(4000, 400, 1000)}
TINY = {"train": Sizes(64), "valid": Sizes(60, 4, 8), "eval": Sizes(120, 6, 8)}


def write_reasoning(root: Path, sizes: dict[str, Sizes] = FULL, seed: int = 0) -> None:
    """Writes the data set below `root`; the same seed gives the same bytes.

    Raises:
        InputError: `root` exists, or cannot be written.
    """
    with atomic_folder(root) as fresh:
        rng = np.random.default_rng(seed)
        rows = split_rows(rng)
        for split, glyphs in Glyphs.splits(rng).items():
            _write_split(fresh, split, glyphs, rows[split], sizes[split], rng)


def split_rows(rng: np.random.Generator) -> dict[str, dict[int, list[Row]]]:
    """Rows per split and length; multisets are dealt out, so a row's other orders are in its split."""
    rows: dict[str, dict[int, list[Row]]] = {split: {} for split in SPLITS}
    for length in LENGTHS:
        multisets = list(itertools.combinations_with_replacement(range(10), length))
        order = rng.permutation(len(multisets))
        start = 0
        for split, share in SPLITS.items():
            stop = len(order) if split == "eval" else start + round(share * len(order))
            rows[split][length] = sorted({row for i in order[start:stop] for row in itertools.permutations(multisets[i])})
            start = stop
    return rows


def _write_split(root: Path, split: str, glyphs: Glyphs, rows: dict[int, list[Row]], sizes: Sizes, rng: np.random.Generator) -> None:
    for folder in (root / "images" / split, root / split):
        folder.mkdir(parents=True)
    pictures: dict[int, list[Picture]] = {}
    for length, possible in rows.items():
        pictures[length] = []
        wanted = _random_rows(possible, rng) if split == "train" else families(possible, rng)
        for number, row in enumerate(itertools.islice(wanted, sizes.pictures)):
            path = f"images/{split}/{length}-{number:05d}.png"
            glyphs.compose([glyphs.any_of(digit, rng) for digit in row], rng, vary=split == "train").save(root / path)
            pictures[length].append(Picture(path, row))
    for task in TASKS:
        if split == "train":
            write_parquet(root / split / f"{task.name}.parquet", [_training_row(task, picture) for picture in pictures[task.length]])
        else:
            write_jsonl(root / split / f"{task.name}.jsonl", _queries(task, pictures[task.length], sizes, rng))


def _random_rows(possible: list[Row], rng: np.random.Generator) -> Iterator[Row]:
    while True:
        yield possible[int(rng.integers(len(possible)))]


def families(possible: list[Row], rng: np.random.Generator) -> Iterator[Row]:
    """Random rows, each followed by rows of the split that it is easily taken for, so that searches have near misses."""
    known = set(possible)
    for row in _random_rows(possible, rng):
        near = sorted(known.intersection(near_rows(row)) - {row})
        yield row
        yield from (near[int(i)] for i in rng.permutation(len(near))[: POOL - 1])


def _training_row(task: Task, picture: Picture) -> tuple[str, str, str, str]:
    answer = task.answer(picture.digits)
    if task.finding:
        return (f"{task.text}\n{answer}", "", IMAGE_PLACEHOLDER, picture.path)
    return (f"{IMAGE_PLACEHOLDER}\n{task.text}", picture.path, answer, "")


def _queries(task: Task, pictures: list[Picture], sizes: Sizes, rng: np.random.Generator) -> list[dict[str, object]]:
    queries = sizes.hardest if task.name in HARDEST else sizes.queries
    chosen = [pictures[int(i)] for i in rng.choice(len(pictures), size=queries, replace=queries > len(pictures))]
    if task.finding:
        by_row: dict[Row, list[Picture]] = defaultdict(list)
        for picture in pictures:
            by_row[picture.digits].append(picture)
        return [to_pictures(task.text, task.answer(p.digits), "", _near_pictures(p, by_row, rng)) for p in chosen]
    return [to_texts("", task.text, p, task.answer(p.digits), _near_answers(task, p.digits, rng)) for p in chosen]


def near_rows(row: Row) -> Iterator[Row]:
    """Every row that differs in one digit, or in the places of two."""
    for place in range(len(row)):
        for digit in range(10):
            yield (*row[:place], digit, *row[place + 1 :])
    for first, second in itertools.combinations(range(len(row)), 2):
        swapped = list(row)
        swapped[first], swapped[second] = row[second], row[first]
        yield tuple(swapped)


def _near_answers(task: Task, row: Row, rng: np.random.Generator) -> tuple[str, ...]:
    """Answers to nearly the same row."""
    answers = sorted({task.answer(near) for near in near_rows(row)} - {task.answer(row)})
    return tuple(answers[int(i)] for i in rng.permutation(len(answers))[: POOL - 1])


def _near_pictures(right: Picture, by_row: dict[Row, list[Picture]], rng: np.random.Generator) -> list[str]:
    """The right picture, then one of each of the rows that differ from it in the fewest places."""
    others = [row for row in by_row if row != right.digits]
    apart = [(sum(a != b for a, b in zip(row, right.digits, strict=True)), rng.random()) for row in others]
    nearest = [others[i] for i in sorted(range(len(others)), key=apart.__getitem__)[: POOL - 1]]
    return [right.path, *(by_row[row][int(rng.integers(len(by_row[row])))].path for row in nearest)]
