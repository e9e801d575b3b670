"""Rows and files in MMEB's formats, for training and for evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lame_runtime.contract.prompts import IMAGE_PLACEHOLDER

from lame_training.data.digits.glyphs import DigitPicture

TrainingRow = tuple[str, str, str, str]
"""The query's text and picture, and the positive's text and picture. Pictures are paths or ""."""


def write_training_rows(path: Path, rows: Sequence[TrainingRow]) -> None:
    """Writes a parquet file with MMEB's training columns and no negatives."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("qry", "qry_image_path", "pos_text", "pos_image_path")
    columns = {
        name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    # The columns are there even though they are empty, as in the published files.
    columns["neg_text"] = columns["neg_image_path"] = [""] * len(rows)
    pq.write_table(pa.table(columns), path)


def write_evaluation_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a JSONL file of rows from `evaluation_row`."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def evaluation_row(
    query: tuple[str, str, str], target_instruction: str, texts: list[str], images: list[str]
) -> dict[str, Any]:
    """Builds a row with MMEB's evaluation fields.

    Args:
        query: its instruction, its text and the path of its picture.
        target_instruction: the instruction of the candidates.
        texts: the candidates' texts, the right one first.
        images: the paths of the candidates' pictures in the same order, "" for none.
    """
    instruction, text, image = query
    return {
        "qry_inst": instruction,
        "qry_text": text,
        "qry_img_path": image,
        "tgt_inst": target_instruction,
        "tgt_text": texts,
        "tgt_img_path": images,
    }


def text_candidates(
    instruction: str, text: str, picture: DigitPicture, right: str, answers: Sequence[str]
) -> dict[str, Any]:
    """Builds an evaluation row that ranks texts for a picture; `right` may be among `answers`."""
    # The right answer first, as in MMEB's files.
    pool = [right, *(answer for answer in answers if answer != right)]
    query = (f"{IMAGE_PLACEHOLDER}\n{instruction}", text, picture.path)
    return evaluation_row(query, "", pool, [""] * len(pool))


def picture_candidates(instruction: str, text: str, image: str, paths: list[str]) -> dict[str, Any]:
    """Builds an evaluation row that ranks pictures; the first of `paths` is the right one."""
    # Each candidate's text is the mark of its picture, as in MMEB's files.
    return evaluation_row((instruction, text, image), "", [IMAGE_PLACEHOLDER] * len(paths), paths)
