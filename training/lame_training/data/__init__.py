"""Training data: the files of published and own data sets → rows → pairs of inputs, one by one and lazily.

mixture   which data sets, with which weights: `data_sets`, `read_mixture`
files     the files of one, as memory-mapped tables: `row_files`
rows      its usable rows as a sequence of pairs, the others counted: `open_rows`, `Rows`, `describe`
formats   what a row looks like: mmeb, pages (ColPali, VisRAG), videos (LLaVA-Hound), JSONL of one's own
"""

from __future__ import annotations

from pathlib import Path

from lame_training.data.files import row_files
from lame_training.data.mixture import data_sets, read_mixture
from lame_training.data.pairs import DataSet, Pair, TargetSide
from lame_training.data.rows import Rows, describe, open_rows

__all__ = ["DataSet", "Pair", "Rows", "TargetSide", "data_sets", "describe", "open_rows", "read_mixture", "read_pairs", "row_files"]


def read_pairs(root: Path, data_set: DataSet) -> list[Pair]:
    """Every usable row of a small data set, in memory; raises `InputError` as `open_rows` does."""
    return list(open_rows(root, data_set))
