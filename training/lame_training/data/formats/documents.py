"""Rows of ColPali's and VisRAG's training sets: a question and the page that answers it.

Both are Hugging Face parquet shards, `data/train-00000-of-000NN.parquet`, with the pages embedded
as
the `Image` feature (a struct of `bytes` and `path`):

    vidore/colpali_train_set                 image, image_filename, query, answer, source, options,
                                             page, model, prompt, answer_type
    openbmb/VisRAG-Ret-Train-In-domain-data  query, image, source
    openbmb/VisRAG-Ret-Train-Synthetic-data  query, image, source

The columns are those that TIGER-AI-Lab/VLM2Vec reads (src/data/dataset/vidore_dataset.py,
visrag_dataset.py). As in ColPali's own training (illuin-tech/colpali), the query retrieves the
page. VLM2Vec-V2 lets page and query retrieve `answer` instead.
"""

from __future__ import annotations

from pathlib import Path

from lame_runtime.contract.media.images import ImageSource
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError, shown

from lame_training.data.pairs import (
    DataSet,
    Format,
    Pair,
    RawRow,
    make_pair,
    path_below,
    text_input,
    with_instruction,
)


def _read(row: RawRow, data_set: DataSet, images: Path) -> Pair:
    """Reads one row as query → page."""
    # ColPali's rows also hold an answer, which is not used: it is no text of the page.
    query, image = row["query"], row["image"]
    if not isinstance(query, str | None):
        raise InputError(f"holds {shown(repr(query))} instead of the query's text; write it again")
    page = Input(image=_picture(image, images))
    return make_pair(with_instruction(text_input(query or ""), data_set), page, data_set)


def _picture(image: object, images: Path) -> ImageSource | None:
    """Returns a page's embedded bytes or, if a copy of the data set keeps files, its path."""
    if isinstance(image, dict) and set(image) >= {"bytes", "path"}:
        image = image["bytes"] or image["path"]
    if image is None or isinstance(image, bytes):
        # Empty bytes are no picture: None lets `make_pair` skip the row as an empty positive.
        return image or None
    if isinstance(image, str):
        return path_below(images, image) if image else None
    raise InputError(
        f"holds a {type(image).__name__} instead of a picture; "
        "write it with the Image feature of `datasets`"
    )


# The page holds no text of its own, so its reason tokens decode the question.
COLPALI = Format(_read, columns=("query", "image"), target_side="query")
# VisRAG's two sets have the same two columns; the name lets a mixture say what it means.
VISRAG = COLPALI
