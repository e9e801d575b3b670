"""Rows of ColPali's and VisRAG's training sets: a question and, embedded in the parquet, the page that answers it.

Both are Hugging Face parquet shards, `data/train-00000-of-000NN.parquet`, with pictures as the `Image` feature (a struct
of `bytes` and `path`):

    vidore/colpali_train_set                 image, image_filename, query, answer, source, options, page, model, prompt, answer_type
    openbmb/VisRAG-Ret-Train-In-domain-data  query, image, source
    openbmb/VisRAG-Ret-Train-Synthetic-data  query, image, source

Columns as TIGER-AI-Lab/VLM2Vec reads them (src/data/dataset/vidore_dataset.py, visrag_dataset.py). ColPali's own training
goes from the query to the page (illuin-tech/colpali), and so do we; VLM2Vec-V2 lets page and query find `answer` instead.
"""

from __future__ import annotations

from pathlib import Path

from lame_runtime.contract.images import ImageSource
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError

from lame_training.data.pairs import DataSet, Format, Pair, Row, asked, below, paired, text_input


def _read(row: Row, data_set: DataSet, images: Path) -> Pair:
    query, image = row["query"], row["image"]
    if not isinstance(query, str | None):
        raise InputError(f"holds {query!r} where the query's text belongs; write it again")
    return paired(asked(text_input(query or ""), data_set), Input(image=_picture(image, images)), data_set)


def _picture(image: object, images: Path) -> ImageSource | None:
    """Embedded bytes, or a path where a copy of the data set keeps its pictures as files."""
    if isinstance(image, dict) and set(image) >= {"bytes", "path"}:
        image = image["bytes"] or image["path"]
    if image is None or isinstance(image, bytes):
        return image or None
    if isinstance(image, str):
        return below(images, image) if image else None
    raise InputError(f"holds a {type(image).__name__} where a picture belongs; write it with the Image feature of datasets")


COLPALI = Format(_read, columns=("query", "image"), target_side="query")
VISRAG = COLPALI
