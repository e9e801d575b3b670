"""The embedded default data set: real handwritten digits composed into pictures, in MMEB's row formats.

scikit-learn ships 1,797 handwritten digits (UCI Optical Recognition of Handwritten Digits, 8×8 pixels).
One to four of them in a row make a picture; the tasks ask for what is written nowhere in it. Digits are
split by instance before anything is composed, so no digit of the test pictures was seen in training.

    ROOT/images/SPLIT/*.png   ROOT/train/TASK.parquet   ROOT/valid/TASK.jsonl   ROOT/eval/TASK.jsonl
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lame_runtime.atomic import atomic_folder
from lame_runtime.contract.prompts import IMAGE_PLACEHOLDER
from PIL import Image

CELL = 28
"""Pixels per side of one digit's cell; the digit itself takes 26, placed at random inside."""
INK = 26
SPLITS = {"train": 0.7, "valid": 0.1, "eval": 0.2}
UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = {2: "twenty", 3: "thirty"}


def number_word(value: int) -> str:
    """0 to 39 in English."""
    if value < 20:
        return UNITS[value]
    tens, unit = divmod(value, 10)
    return TENS[tens] + (f"-{UNITS[unit]}" if unit else "")


@dataclass(frozen=True)
class Question:
    """A question about a row of digits; `answers` are all its possible answers (one candidate pool)."""

    name: str
    text: str
    lengths: tuple[int, ...]
    answer: Callable[[tuple[int, ...]], str]
    answers: tuple[str, ...]


def _numbers(stop: int) -> tuple[str, ...]:
    return tuple(number_word(value) for value in range(stop))


SUM = "What do the digits add up to?"
QUESTIONS = (
    Question("sum2", SUM, (2,), lambda d: number_word(sum(d)), _numbers(19)),
    Question("sum3", SUM, (3,), lambda d: number_word(sum(d)), _numbers(28)),
    Question("largest", "Which digit is the largest?", (2, 3, 4), lambda d: number_word(max(d)), _numbers(10)),
    Question("evens", "How many digits are even?", (2, 3, 4), lambda d: number_word(sum(v % 2 == 0 for v in d)), _numbers(5)),
    Question("second", "Which digit is second from the left?", (2, 3, 4), lambda d: number_word(d[1]), _numbers(10)),
    Question(
        "ascending", "Are the digits in ascending order?", (2, 3, 4), lambda d: "yes" if list(d) == sorted(d) else "no", ("yes", "no")
    ),
)

CLASSIFY = "Name the digit."
FIND_PICTURE = "Find the picture."
FIND_SAME_SUM = "Find a picture with the same sum."


@dataclass(frozen=True)
class Picture:
    """A composed picture on disk and the digits in it, left to right."""

    path: str
    digits: tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """How much to write. Pictures per number of digits, rows per task."""

    pictures: dict[int, int]
    rows: int


FULL = {
    "train": Sizes({1: 4000, 2: 8000, 3: 8000, 4: 2000}, 8000),
    "valid": Sizes({1: 180, 2: 300, 3: 300, 4: 60}, 150),
    "eval": Sizes({1: 400, 2: 500, 3: 500, 4: 100}, 250),
}
TINY = {
    "train": Sizes({1: 60, 2: 120, 3: 120, 4: 30}, 120),
    "valid": Sizes({1: 20, 2: 60, 3: 80, 4: 10}, 10),
    "eval": Sizes({1: 30, 2: 80, 3: 110, 4: 10}, 24),
}
"""`TINY` is for tests: the same formats in a few hundred files."""


def write_digits(root: Path, sizes: dict[str, Sizes] = FULL, seed: int = 0) -> None:
    """Writes the data set below `root`; the same seed gives the same bytes.

    Args:
        root: the folder to make; it appears when it is complete.
        sizes: per split.
        seed: of the splits, the pictures and the rows.

    Raises:
        InputError: `root` exists, or cannot be written.
    """
    with atomic_folder(root) as fresh:
        _write(fresh, sizes, seed)


def _write(root: Path, sizes: dict[str, Sizes], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for split, glyphs in Glyphs.splits(rng).items():
        pictures = _write_pictures(root, split, glyphs, sizes[split], rng)
        if split == "train":
            _write_train(root / "train", pictures, sizes[split].rows, rng)
        else:
            _write_eval(root / split, pictures, sizes[split].rows, rng)


@dataclass(frozen=True)
class Glyphs:
    """Handwritten digits of one split, to compose pictures from."""

    images: list[Image.Image]
    labels: npt.NDArray[np.int64]

    @staticmethod
    def splits(rng: np.random.Generator) -> dict[str, Glyphs]:
        """Deals scikit-learn's digits out to the splits."""
        from sklearn.datasets import load_digits

        ink, labels = load_digits(return_X_y=True)
        order = rng.permutation(len(labels))
        found, start = {}, 0
        for split, share in SPLITS.items():
            stop = len(order) if split == "eval" else start + round(share * len(order))
            chosen, start = order[start:stop], stop
            images = [Image.fromarray((glyph * (255 / 16)).astype(np.uint8)) for glyph in ink[chosen].reshape(-1, 8, 8)]
            found[split] = Glyphs(images, labels[chosen])
        return found

    def any_of(self, digit: int, rng: np.random.Generator) -> int:
        """Index of some glyph of `digit`."""
        return int(rng.choice(np.flatnonzero(self.labels == digit)))

    def compose(self, chosen: Sequence[int], rng: np.random.Generator, *, vary: bool) -> Image.Image:
        """A row of glyphs; training pictures `vary` in size and slant, since there are few digits to learn from."""
        canvas = Image.new("L", (CELL * len(chosen), CELL))
        for cell, index in enumerate(chosen):
            side = int(rng.integers(INK - 2, INK + 3)) if vary else INK
            digit = self.images[index].resize((side, side), Image.Resampling.BICUBIC)
            if vary:
                digit = digit.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BICUBIC)
            right, down = (int(each) for each in rng.integers(CELL - side + 1, size=2))
            canvas.paste(digit, (cell * CELL + right, down))
        return canvas


def _write_pictures(root: Path, split: str, glyphs: Glyphs, sizes: Sizes, rng: np.random.Generator) -> dict[int, list[Picture]]:
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[int, list[Picture]] = {}
    for count, amount in sizes.pictures.items():
        written[count] = []
        for number in range(amount):
            chosen = rng.integers(len(glyphs.images), size=count)
            path = f"images/{split}/{count}-{number:05d}.png"
            glyphs.compose(chosen.tolist(), rng, vary=split == "train").save(root / path)
            written[count].append(Picture(path, tuple(int(glyphs.labels[index]) for index in chosen)))
    return written


def _by_sum(pictures: list[Picture]) -> dict[int, list[Picture]]:
    groups: dict[int, list[Picture]] = defaultdict(list)
    for picture in pictures:
        groups[sum(picture.digits)].append(picture)
    return groups


def _pick(items: list[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _describe(total: int) -> str:
    return f"digits that add up to {number_word(total)}"


# --- training rows: MMEB-train's parquet columns --------------------------------------------------------


def _write_train(folder: Path, pictures: dict[int, list[Picture]], rows: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ask = f"{IMAGE_PLACEHOLDER}\n{CLASSIFY}"
    write_parquet(folder / "digit.parquet", [(ask, p.path, number_word(p.digits[0]), "") for p in pictures[1]])
    for question in QUESTIONS:
        ask = f"{IMAGE_PLACEHOLDER}\n{question.text}"
        chosen = [_pick(pictures[_pick(list(question.lengths), rng)], rng) for _ in range(rows)]
        write_parquet(folder / f"{question.name}.parquet", [(ask, p.path, question.answer(p.digits), "") for p in chosen])
    for count in (2, 3):
        ask = f"{FIND_PICTURE}\n"
        chosen = [_pick(pictures[count], rng) for _ in range(rows)]
        found = [(ask + _describe(sum(p.digits)), "", IMAGE_PLACEHOLDER, p.path) for p in chosen]
        write_parquet(folder / f"find{count}.parquet", found)
    groups = [group for group in _by_sum(pictures[2]).values() if len(group) > 1]
    same = []
    for _ in range(rows):
        first, second = rng.choice(len(group := _pick(groups, rng)), size=2, replace=False)
        same.append((f"{IMAGE_PLACEHOLDER}\n{FIND_SAME_SUM}", group[first].path, IMAGE_PLACEHOLDER, group[second].path))
    write_parquet(folder / "same2.parquet", same)


def write_parquet(path: Path, rows: list[tuple[str, str, str, str]]) -> None:
    """MMEB's training columns: query text and picture, positive text and picture; no negatives."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    qry, qry_image_path, pos_text, pos_image_path = (list(column) for column in zip(*rows, strict=True))
    empty = [""] * len(rows)
    columns = {
        "qry": qry,
        "qry_image_path": qry_image_path,
        "pos_text": pos_text,
        "pos_image_path": pos_image_path,
        "neg_text": empty,
        "neg_image_path": empty,
    }
    pq.write_table(pa.table(columns), path)


# --- evaluation rows: MMEB-eval's fields, candidate 0 is the right one -----------------------------------


def _write_eval(folder: Path, pictures: dict[int, list[Picture]], rows: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wide = [_pick(pictures[1], rng) for _ in range(2 * rows)]
    write_jsonl(folder / "digit.jsonl", [to_texts(CLASSIFY, "", p, number_word(p.digits[0]), _numbers(10)) for p in wide])
    for question in QUESTIONS:
        chosen = [_pick(pictures[_pick(list(question.lengths), rng)], rng) for _ in range(rows)]
        answers = [to_texts("", question.text, p, question.answer(p.digits), question.answers) for p in chosen]
        write_jsonl(folder / f"{question.name}.jsonl", answers)
    for count in (2, 3):
        groups = _by_sum(pictures[count])
        found = []
        for _ in range(rows):
            total = sum(_pick(pictures[count], rng).digits)
            found.append(to_pictures(FIND_PICTURE, _describe(total), "", _one_right(groups, total, rng)))
        write_jsonl(folder / f"find{count}.jsonl", found)
    groups = _by_sum(pictures[2])
    same: list[dict[str, Any]] = []
    while len(same) < 2 * rows:
        query = _pick(pictures[2], rng)
        total = sum(query.digits)
        others = groups | {total: [picture for picture in groups[total] if picture is not query]}
        if others[total]:
            same.append(to_pictures(f"{IMAGE_PLACEHOLDER}\n{FIND_SAME_SUM}", "", query.path, _one_right(others, total, rng)))
    write_jsonl(folder / "same2.jsonl", same)


def _one_right(groups: dict[int, list[Picture]], total: int, rng: np.random.Generator) -> list[str]:
    """Paths of one picture per sum, the right sum first."""
    return [_pick(groups[value], rng).path for value in [total, *sorted(set(groups) - {total})]]


def to_texts(instruction: str, text: str, picture: Picture, right: str, answers: tuple[str, ...]) -> dict[str, Any]:
    """An evaluation row whose candidates are texts; `right` may be among `answers`."""
    pool = [right, *(answer for answer in answers if answer != right)]
    return _row(f"{IMAGE_PLACEHOLDER}\n{instruction}", text, picture.path, pool, [""] * len(pool))


def to_pictures(instruction: str, text: str, image: str, paths: list[str]) -> dict[str, Any]:
    """An evaluation row whose candidates are pictures, the right one first."""
    return _row(instruction, text, image, [IMAGE_PLACEHOLDER] * len(paths), paths)


def _row(instruction: str, text: str, image: str, texts: list[str], images: list[str]) -> dict[str, Any]:
    return {"qry_inst": instruction, "qry_text": text, "qry_img_path": image, "tgt_inst": "", "tgt_text": texts, "tgt_img_path": images}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
