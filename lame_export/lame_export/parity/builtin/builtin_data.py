"""Writes the built-in data set, with which a model can be exported without data of one's own.

    FOLDER/images/*.png   FOLDER/train/builtin.parquet   FOLDER/eval/builtin.jsonl

A record is a text and a picture in two versions: a text in two languages, a picture in two views. A
row asks for the second version by the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import ExportError, InputError
from lame_training.data.digits import (
    evaluation_row,
    write_evaluation_rows,
    write_training_rows,
)
from PIL import Image

from lame_export.parity.builtin.drawn_pictures import draw_pictures
from lame_export.parity.builtin.drawn_texts import draw_texts

TASK = "builtin"
"""Name of the only task."""
INSTRUCTION = "Find the same in another form."
"""Instruction of the evaluation queries; training rows have those of the contract's roles."""
MODALITIES = ("text", "image", "image+text")
EVALUATED = (
    *((modality, modality) for modality in MODALITIES),
    # candidates that are embedded anyway, so these rows cost nothing
    *(("text", "image+text"), ("image", "image+text")),
)
"""Modalities of the queries and candidates of the evaluation rows."""
TRIES = 16
"""Maximum number of attempts per record; records that the contract refuses are dropped."""
POOL_SIZE = 32
"""Maximum number of candidates of a query."""
MOST_CALIBRATION = 512
"""Most calibration inputs of each modality; more of the same kinds would not widen any range."""


@dataclass(frozen=True)
class Version:
    """One version of a record."""

    text: str
    picture: str
    """Path relative to the data set's root."""

    def parts(self, modality: str) -> tuple[str, str]:
        """Returns text and path of the picture, with "" for one that the modality lacks."""
        return self.text if "text" in modality else "", self.picture if "image" in modality else ""


Record = tuple[Version, Version]


def write_builtin_data(folder: Path, preparer: Preparer, golden: int, calibration: int) -> None:
    """Writes the built-in data set; the same arguments give the same bytes.

    The contract takes every input. Texts and pictures of training rows are not those of evaluation
    rows.

    Args:
        folder: the folder to create.
        preparer: the contract and tokenizer.
        golden: fewest inputs of each modality in the evaluation rows.
        calibration: fewest inputs of each modality in the training rows, if they are not more than
            `MOST_CALIBRATION`.

    Raises:
        ExportError: the contract refuses too many inputs, such as one that has no room for a
            sentence beside a picture.
    """
    # two inputs of each modality per record, and one more if the number is odd
    evaluated, trained = -(-golden // 2), -(-min(calibration, MOST_CALIBRATION) // 2)
    for name in ("images", "train", "eval"):
        (folder / name).mkdir(parents=True)
    records = _draw_records(folder, preparer, evaluated + trained)
    write_evaluation_rows(
        folder / f"eval/{TASK}.jsonl",
        [
            _evaluation_row(records[:evaluated], number, query, candidate)
            for query, candidate in EVALUATED
            for number in range(evaluated)
        ],
    )
    write_training_rows(
        folder / f"train/{TASK}.parquet",
        [
            (*first.parts(modality), *second.parts(modality))
            for modality in MODALITIES
            for first, second in records[evaluated:]
        ],
    )


def _evaluation_row(
    records: Sequence[Record], number: int, query: str, candidate: str
) -> dict[str, Any]:
    """Returns the row of one record; the records behind it give the wrong candidates."""
    pool = [
        records[(number + place) % len(records)][1].parts(candidate)
        for place in range(min(POOL_SIZE, len(records)))
    ]
    texts, pictures = (list(column) for column in zip(*pool, strict=True))
    return evaluation_row((INSTRUCTION, *records[number][0].parts(query)), "", texts, pictures)


def _draw_records(folder: Path, preparer: Preparer, count: int) -> list[Record]:
    """Draws records that the contract takes, and writes their pictures to `FOLDER/images/`."""
    rng = np.random.default_rng(0)
    # all of them at once are longer than any: an input that has room for them has room for one
    instruction = " ".join((INSTRUCTION, *preparer.contract.prompt.roles.values()))
    records: list[Record] = []
    seen: set[str] = set()
    for number in range(TRIES * count):
        if len(records) == count:
            return records
        texts, pictures = draw_texts(number, rng), draw_pictures(rng)
        if not seen.isdisjoint(texts) or not all(
            _is_taken(Input(text, picture, instruction), preparer)
            for text, picture in zip(texts, pictures, strict=True)
        ):
            continue
        seen.update(texts)
        first, second = (
            Version(text, _write_picture(picture, folder, f"images/{len(records):04d}{view}.png"))
            for text, picture, view in zip(texts, pictures, "ab", strict=True)
        )
        records.append((first, second))
    raise ExportError(
        f"the contract takes {2 * len(records)} inputs of each modality of the built-in data, "
        f"{2 * count} are needed; pass data of your own as `data`"
    )


def _is_taken(item: Input, preparer: Preparer) -> bool:
    """Returns whether the contract takes an input, which it does for every part of it, too."""
    try:
        preparer(item)
    except InputError:
        return False
    return True


def _write_picture(picture: Image.Image, folder: Path, path: str) -> str:
    picture.save(folder / path)
    return path
