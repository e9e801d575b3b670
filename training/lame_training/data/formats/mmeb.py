"""Rows of MMEB-train: texts with their instruction inside, pictures as paths, some hard negatives.

Layout of huggingface.co/datasets/TIGER-Lab/MMEB-train once its `images_zip/*.zip` are unpacked:

    SUBSET/original-00000-of-00001.parquet
    SUBSET/diverse_instruction-00000-of-00001.parquet
    images/SUBSET/Train/*.jpg

The columns are `qry, qry_image_path, pos_text, pos_image_path, neg_text, neg_image_path`. Paths are
relative to the data set's root. Rows are read as in VLM2Vec-V2 (TIGER-AI-Lab/VLM2Vec,
src/data/dataset/mmeb_dataset.py and mmeb_neg_dataset.py, where a row's negatives may also be
lists).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError, shown

from lame_training.data.pairs import (
    DataSet,
    Format,
    Pair,
    RawRow,
    TargetSide,
    make_pair,
    path_below,
    text_input,
)

SUBSETS: dict[str, tuple[TargetSide, str]] = {
    "VisDial": (
        "query",
        "Represent the given dialogue about an image, which is used for image retrieval:",
    ),
    "VisualNews_t2i": ("query", "Retrieve an image of this news caption."),
    "MSCOCO_t2i": ("query", "Find me an everyday image that matches the given caption:"),
    "MSCOCO": ("query", "Select the portion of the image that isolates the object labeled as"),
    "WebQA": ("query", "Find a Wikipedia image that answers this question:"),
    "CIRR": ("none", ""),
    "NIGHTS": ("none", ""),
}
"""Target side and instruction of the subsets whose positive holds no text worth decoding.

Their positive's text is one fixed sentence, so the query's text is decoded, without its
instruction. In CIRR and NIGHTS nothing is decoded: both sides are pictures, and the target cannot
know what the query asks about its own picture (CIRR). In all other subsets (classification,
question answering, image → text) the positive's text is decoded; it holds no instruction.
"""

FIXED = ("Represent the given image", "Represent the given image.")
"""The text of a positive that is only a picture."""


def _read(row: RawRow, data_set: DataSet, images: Path) -> Pair:
    """Reads one row; its negatives may be single values or lists."""
    query = _read_input(images, row["qry"], row["qry_image_path"])
    positive = _read_input(images, row["pos_text"], row["pos_image_path"])
    # MMEB-train holds single values; VLM2Vec also reads lists of several negatives.
    texts, paths = _as_list(row.get("neg_text")), _as_list(row.get("neg_image_path"))
    if not texts and not paths:
        return make_pair(query, positive, data_set)
    count = max(len(texts), len(paths))
    if texts and paths and len(texts) != len(paths):
        raise InputError(
            f"has {len(texts)} neg_text for {len(paths)} neg_image_path; "
            "give one of each per negative"
        )
    # VisDial's negatives are pictures without the fixed sentence that its positives have. Without
    # it, the model could tell them apart by the missing text alone.
    default = positive.text if positive.text in FIXED else ""
    negatives = [
        _read_input(images, text or (default if path else ""), path)
        for text, path in zip(texts or [None] * count, paths or [None] * count, strict=True)
    ]
    # A list may hold entries that have neither a text nor a picture.
    filled = tuple(negative for negative in negatives if negative.text or negative.image)
    return make_pair(query, positive, data_set, filled)


def _read_input(images: Path, text: Any, image: Any) -> Input:
    # Null stands for an empty text; a number or a list means that the columns are others.
    if not (text is None or isinstance(text, str)) or not (image is None or isinstance(image, str)):
        raise InputError(
            f"holds {shown(repr(text))} and {shown(repr(image))} instead of a text and a path; "
            "write it again"
        )
    return text_input(text or "", path_below(images, image) if image else None)


def _as_list(value: Any) -> list[Any]:
    """Returns a negative column's value as a list; it is empty if the row has no negatives."""
    # A row without negatives may hold null, "" or a list of "".
    values = value if isinstance(value, list) else [value] if value else []
    return values if any(values) else []


MMEB = Format(
    _read,
    columns=("qry", "qry_image_path", "pos_text", "pos_image_path"),
    optional=("neg_text", "neg_image_path"),
)
