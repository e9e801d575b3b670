"""The records that training data is made of: data sets, pairs, and the formats that rows come in.

A `DataSet` says which rows a run reads. A `Format` turns one of its rows into a `Pair`: a query,
its positive, perhaps hard negatives, and the texts that the reconstruction loss L_rec decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lame_runtime.contract.media.images import ImageSource
from lame_runtime.contract.prompts import Input, Part, Picture, Video, clean

TargetSide = Literal["positive", "query", "both", "shared", "none"]


@dataclass(frozen=True)
class DataSet:
    """One training task of a recipe or a mixture."""

    name: str
    target_side: TargetSide
    """The text that L_rec reconstructs.

    "positive": the query's reason tokens decode the positive's text. "query": the positive's decode
    the query's text. "both": both of these. "shared": both sides decode the same text, which is the
    positive's or, if it has none, the query's. "none": nothing is decoded.
    """
    weight: float = 1.0
    """Relative frequency with which sub-batches are drawn from this data set."""
    instruction: str = ""
    """The query's instruction.

    Rows of format "mmeb" hold it in their text already, so it is only stripped from what is
    decoded. In the other formats it is put before the query.
    """
    begins: float = 0.0
    """Share of the stage after which the task joins in (a curriculum)."""
    format: str = "mmeb"
    """A key of `formats.registry.FORMATS`."""
    path: tuple[str, ...] = ()
    """Files, folders or globs below the data root. If empty, see `files.row_files`."""
    images: str = ""
    """Folder that the rows' paths are relative to, below the data root."""
    max_rows: int | None = None
    """Maximum number of rows, spread evenly over the usable ones. None takes all of them."""


@dataclass(frozen=True)
class Pair:
    """One training example: a query, its positive and its hard negatives."""

    query: Input
    positive: Input
    query_decodes: str | None
    """Text that the query's reason tokens decode; None if they decode nothing."""
    positive_decodes: str | None
    """Text that the positive's reason tokens decode; None if they decode nothing."""
    negatives: tuple[Input, ...] = ()


class SkipRow(Exception):  # noqa: N818 - not an error: MMEB's readers drop such rows too
    """A row cannot be trained on. It is counted by `reason` and left out."""

    def __init__(self, reason: str, example: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.example = example
        """The file that is missing or unusable, if that is the reason."""


# A mapping, not a dataclass: which columns a row has is the format's business.
RawRow = Mapping[str, Any]
"""One row as its file holds it, by column name."""
RowReader = Callable[[RawRow, DataSet, Path], Pair]
"""Reads one row, given the folder that its paths are relative to.

Raises `SkipRow`, or `InputError` if the row does not have the format's shape.
"""


@dataclass(frozen=True)
class Format:
    """A published layout of rows."""

    read: RowReader
    columns: tuple[str, ...]
    """Columns that every file must have."""
    optional: tuple[str, ...] = ()
    """Columns that are read if a file has them. Every other column is left on the disk."""
    target_side: TargetSide = "positive"
    """Default of `DataSet.target_side` for data sets of this format."""
    instruction: str = ""
    """Default of `DataSet.instruction` for data sets of this format."""


def parts_of(item: Input) -> tuple[Part, ...]:
    """Returns `item.parts`, but faster, for inputs that a `Format` has read.

    Opening a data set calls this for millions of inputs, so it skips the cleaning that the property
    does: `text_input` has cleaned the texts already.
    """
    # Only our own JSONL sets `content`, and the property leaves out its blank texts.
    if item.content:
        return item.parts
    picture = () if item.image is None else (Picture(item.image),)
    video = () if item.video is None else (item.video,)
    return (*picture, *video, item.text) if item.text else (*picture, *video)


def words_of(item: Input) -> str:
    """Joins the texts of an input, without its instruction."""
    return "\n".join(part for part in parts_of(item) if isinstance(part, str)).strip()


def make_pair(
    query: Input, positive: Input, data_set: DataSet, negatives: tuple[Input, ...] = ()
) -> Pair:
    """Builds a pair with the texts to decode that `data_set.target_side` asks for.

    Raises:
        SkipRow: the query or the positive is empty.
    """
    # An empty side would be embedded as the bare prompt, like every other empty side.
    for side_name, item in (("query", query), ("positive", positive)):
        if not parts_of(item):
            raise SkipRow(f"empty {side_name}")
    side = data_set.target_side
    query_text = positive_text = ""
    if side in ("query", "both", "shared"):
        # An instruction is the same in every row, so decoding it would teach nothing.
        query_text = words_of(query).removeprefix(data_set.instruction.strip()).strip()
    if side in ("positive", "both", "shared"):
        positive_text = words_of(positive)
    # Both sides are about the same thing, so the text of either will do.
    if side == "shared":
        query_text = positive_text = positive_text or query_text
    # Each side decodes the text of the other one, which it has to infer from its own input.
    return Pair(query, positive, positive_text or None, query_text or None, negatives)


def with_instruction(query: Input, data_set: DataSet) -> Input:
    """Returns the query with the data set's instruction, unless its row has one of its own."""
    # `is None`: a row may ask for no instruction with an empty one.
    if data_set.instruction and query.instruction is None:
        return replace(query, instruction=data_set.instruction)
    return query


def text_input(text: str, image: ImageSource | None = None, video: Video | None = None) -> Input:
    """Builds an input of a text and a picture or video; removes MMEB's picture placeholder."""
    return Input(clean(text), image, video=video)


def path_below(images: Path, path: str) -> str:
    """Joins a row's path to the folder it is relative to."""
    # An absolute path stays as it is: `SourceCheck` refuses it with the path that the file holds.
    return path if path.startswith("/") else f"{images}/{path}"


def training_texts(rows: Iterable[Sequence[Pair]]) -> list[str]:
    """Returns the texts of all rows, each once, on which a tokenizer is trained."""
    # sorted: the same rows give the same tokenizer, whatever the order of the data sets
    return sorted({text for pairs in rows for pair in pairs for text in _texts(pair)})


def _texts(pair: Pair) -> Iterator[str]:
    """Yields every text of a row, including texts that are only decoded."""
    for item in (pair.query, pair.positive, *pair.negatives):
        yield from (part for part in item.parts if isinstance(part, str))
    yield from (text for text in (pair.query_decodes, pair.positive_decodes) if text)
