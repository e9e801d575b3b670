"""Rows of MMEB-train: texts with their instruction inside, pictures as paths, hard negatives where a subset has them.

Layout of huggingface.co/datasets/TIGER-Lab/MMEB-train once its `images_zip/*.zip` are unpacked:

    SUBSET/original-00000-of-00001.parquet   SUBSET/diverse_instruction-00000-of-00001.parquet   images/SUBSET/Train/*.jpg

with the columns `qry, qry_image_path, pos_text, pos_image_path, neg_text, neg_image_path`; paths begin at the data set's
root. Read as VLM2Vec-V2 does (TIGER-AI-Lab/VLM2Vec, src/data/dataset/mmeb_dataset.py and mmeb_neg_dataset.py, where a
row's negatives may also be lists).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError

from lame_training.data.pairs import DataSet, Format, Pair, Row, TargetSide, below, paired, text_input

SUBSETS: dict[str, tuple[TargetSide, str]] = {
    "VisDial": ("query", "Represent the given dialogue about an image, which is used for image retrieval:"),
    "VisualNews_t2i": ("query", "Retrieve an image of this news caption."),
    "MSCOCO_t2i": ("query", "Find me an everyday image that matches the given caption:"),
    "MSCOCO": ("query", "Select the portion of the image that isolates the object labeled as"),
    "WebQA": ("query", "Find a Wikipedia image that answers this question:"),
    "CIRR": ("none", ""),
    "NIGHTS": ("none", ""),
}
"""Which side of a published subset holds a text worth decoding, and the instruction in front of it.

In the others (classification, question answering, image → text) that is the positive, which holds no instruction. Here
the positive's text is one fixed sentence, and what the query asks beside its own picture (CIRR) no target can know."""

FIXED = ("Represent the given image", "Represent the given image.")
"""The text of a positive that is only a picture. VisDial's negatives lack it, and would be told apart by that alone."""


def _read(row: Row, data_set: DataSet, images: Path) -> Pair:
    query = _input(images, row["qry"], row["qry_image_path"])
    positive = _input(images, row["pos_text"], row["pos_image_path"])
    texts, paths = _listed(row.get("neg_text")), _listed(row.get("neg_image_path"))
    if not texts and not paths:
        return paired(query, positive, data_set)
    amount = max(len(texts), len(paths))
    if texts and paths and len(texts) != len(paths):
        raise InputError(f"has {len(texts)} neg_text for {len(paths)} neg_image_path; give one of each per negative")
    default = positive.text if positive.text in FIXED else ""
    negatives = [
        _input(images, text or (default if path else ""), path)
        for text, path in zip(texts or [None] * amount, paths or [None] * amount, strict=True)
    ]
    return paired(query, positive, data_set, tuple(negative for negative in negatives if negative.text or negative.image))


def _input(images: Path, text: Any, image: Any) -> Input:
    if not (text is None or isinstance(text, str)) or not (image is None or isinstance(image, str)):
        raise InputError(f"holds {text!r} and {image!r} where a text and a path belong; write it again")
    return text_input(text or "", below(images, image) if image else None)


def _listed(value: Any) -> list[Any]:
    """A negative column's value as a list; empty where the row has none."""
    values = value if isinstance(value, list) else [value] if value else []
    return values if any(values) else []


MMEB = Format(
    _read,
    columns=("qry", "qry_image_path", "pos_text", "pos_image_path"),
    optional=("neg_text", "neg_image_path"),
)
