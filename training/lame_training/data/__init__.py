"""Training data: from the files of published and own data sets to the tensors of a training step.

Rows are read one by one and lazily; none is left out without being counted.

    pairs           the records: `DataSet`, `Pair`, `Format`
    mixture         which data sets a run reads, with which weights: `data_sets`, `read_mixture`
    files           the files of a data set as memory-mapped tables: `row_files`
    scanning        a look at every row of a table without decoding a picture
    rows            the usable rows as a sequence of pairs: `open_rows`, `Rows`, `describe`
    sampler         the rows that a step draws
    collate         from the drawn rows to the batch of a step
    prepared_cache  inputs prepared in threads and kept for later steps
    step_batch      the batch of a step: items, chunks of one forward pass, and their tensors
    sources         folder: the data root, its files, and where a row is from
    formats         folder: MMEB-train, ColPali, VisRAG, LLaVA-Hound, and our own JSONL
    digits          folder: the embedded data set of handwritten digits
"""

from __future__ import annotations

from pathlib import Path

from lame_training.data.files import row_files
from lame_training.data.mixture import data_sets, read_mixture
from lame_training.data.pairs import DataSet, Pair, TargetSide
from lame_training.data.rows import Rows, describe, open_rows

__all__ = [
    "DataSet",
    "Pair",
    "Rows",
    "TargetSide",
    "data_sets",
    "describe",
    "open_rows",
    "read_mixture",
    "read_pairs",
    "row_files",
]


def read_pairs(data: Path, data_set: DataSet) -> list[Pair]:
    """Reads every usable row of a small data set into memory; raises what `open_rows` raises."""
    return list(open_rows(data, data_set))
