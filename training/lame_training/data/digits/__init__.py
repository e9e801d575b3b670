"""The embedded default data set: pictures of real handwritten digits, in MMEB's row formats.

scikit-learn ships 1,797 handwritten digits (UCI Optical Recognition of Handwritten Digits, 8×8
pixels). One to four of them in a row make a picture; the tasks ask for what is written nowhere in
it. Digits are split by instance before anything is composed, so no digit of the test pictures was
seen in training.

    ROOT/images/SPLIT/*.png   ROOT/train/TASK.parquet   ROOT/valid/TASK.jsonl   ROOT/eval/TASK.jsonl

    questions   what is asked about a row of digits, and its answers in words
    glyphs      the handwritten digits of a split, and pictures composed from them
    row_files   rows and files in MMEB's formats
    writer      `write_digits`: the tasks of each split
"""

from __future__ import annotations

from lame_training.data.digits.glyphs import CELL, INK, SPLITS, DigitPicture, Glyphs
from lame_training.data.digits.questions import (
    CLASSIFY,
    FIND_PICTURE,
    FIND_SAME_SUM,
    QUESTIONS,
    SUM,
    UNITS,
    DigitQuestion,
    Digits,
    number_word,
)
from lame_training.data.digits.row_files import (
    TrainingRow,
    evaluation_row,
    picture_candidates,
    text_candidates,
    write_evaluation_rows,
    write_training_rows,
)
from lame_training.data.digits.writer import FULL, TINY, SplitSize, write_digits

__all__ = [
    "CELL",
    "CLASSIFY",
    "FIND_PICTURE",
    "FIND_SAME_SUM",
    "FULL",
    "INK",
    "QUESTIONS",
    "SPLITS",
    "SUM",
    "TINY",
    "UNITS",
    "DigitPicture",
    "DigitQuestion",
    "Digits",
    "Glyphs",
    "SplitSize",
    "TrainingRow",
    "evaluation_row",
    "number_word",
    "picture_candidates",
    "text_candidates",
    "write_digits",
    "write_evaluation_rows",
    "write_training_rows",
]
