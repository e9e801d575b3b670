"""Training rows: MMEB-train's parquet files → pairs of inputs with the texts L_rec reconstructs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lame_runtime.contract.prompts import Input, clean
from lame_runtime.errors import InputError

TargetSide = Literal["positive", "query", "both", "none"]
COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")


@dataclass(frozen=True)
class DataSet:
    """One training task of a recipe.

    `target_side` says which text L_rec reconstructs: "positive" (the query's reason tokens decode the
    positive's text), "query" (the positive's decode the query's text), "both" or "none". `instruction`
    is the query's instruction, which is stripped from what is reconstructed. `begins` is the share of the
    stage after which the task joins in (a curriculum).
    """

    name: str
    target_side: TargetSide
    weight: float = 1.0
    instruction: str = ""
    begins: float = 0.0


@dataclass(frozen=True)
class Pair:
    """One training row. A reconstruction text is None where that side's reason tokens decode nothing."""

    query: Input
    positive: Input
    query_decodes: str | None
    positive_decodes: str | None


def data_sets(root: Path) -> tuple[DataSet, ...]:
    """Every `ROOT/train/NAME.parquet` as a task whose positive's text is reconstructed; raises `InputError` without any."""
    names = sorted(path.stem for path in (root / "train").glob("*.parquet"))
    if not names:
        raise InputError(f"{root}: has no train/TASK.parquet; --data must name the root of an MMEB-style data set")
    return tuple(DataSet(name, "positive") for name in names)


def read_pairs(root: Path, data_set: DataSet) -> list[Pair]:
    """Reads `ROOT/train/NAME.parquet`; rows with an empty query or positive are dropped, as MMEB's readers do.

    Raises:
        InputError: the file is missing, unreadable, lacks a column or holds no usable row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = root / "train" / f"{data_set.name}.parquet"
    if not path.is_file():
        raise InputError(f"{path}: no such file; --data must name a folder with train/{data_set.name}.parquet")
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]}); write it again") from None
    if rows and (missing := [column for column in COLUMNS if column not in rows[0]]):
        raise InputError(f"{path}: lacks the column {missing[0]}; MMEB-train rows have {', '.join(COLUMNS)}")
    pairs = []
    for row in rows:
        query = _input(root, row["qry"], row["qry_image_path"])
        positive = _input(root, row["pos_text"], row["pos_image_path"])
        if query is None or positive is None:
            continue
        query_text = query.text.removeprefix(data_set.instruction).strip()
        side = data_set.target_side
        pairs.append(
            Pair(
                query,
                positive,
                query_decodes=positive.text if side in ("positive", "both") and positive.text else None,
                positive_decodes=query_text if side in ("query", "both") and query_text else None,
            )
        )
    if not pairs:
        raise InputError(f"{path}: holds no row with both a query and a positive; check the file")
    return pairs


def _input(root: Path, text: str | None, image: str | None) -> Input | None:
    if not isinstance(text, str | None) or not isinstance(image, str | None):
        raise InputError(f"{root / 'train'}: a row holds {text!r} and {image!r} where text and a path belong; write it again")
    text = clean(text or "")
    if not text and not image:
        return None
    return Input(text, str(root / image) if image else None)
