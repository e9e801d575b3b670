"""Reads MMEB's image tasks: each row is a query with its own pool, candidate 0 the right one.

    ROOT/image-query/TASK/*.parquet    qry_inst qry_text qry_img_path
                                       tgt_inst tgt_text[] tgt_img_path[]
    ROOT/image-tasks/                  pictures; the rows' paths are relative to this folder, or to
                                       MMEB/ inside it

The rows are those of the hub's MMEB_Test_Instruct (MMEB-eval lacks the two instructions), the
pictures those of MMEB-V2's `mmeb_v1.tar.gz`.

Source: `src/data/eval_dataset/image_*.py` and `experiments/public/data/download_data.sh` of
VLM2Vec. Candidates are deduplicated by the names which that code gives them: their text, their
picture's path, or both.
"""

from __future__ import annotations

import functools
from pathlib import Path

from lame_runtime.contract.prompts import Input, clean

from lame_training.evaluation.suites.collector import Collector
from lame_training.evaluation.suites.picture_store import PictureStore
from lame_training.evaluation.suites.suite import Query, Task, TaskSpec
from lame_training.evaluation.suites.tables import (
    TableRow,
    existing,
    list_of,
    read_table,
    text_of,
)

COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
"""Columns that every row has; the instructions are optional."""
TEXT_CANDIDATES = ("image_cls", "image_qa", "image_i2t")
"""Readers whose candidates are texts; all others have pictures as candidates."""


def rows_path(spec: TaskSpec, root: Path) -> Path:
    """Returns the folder of a task's rows."""
    return root / "image-query" / spec.name


def read(spec: TaskSpec, root: Path, _store: PictureStore) -> Task:
    """Reads a task.

    Raises:
        InputError: a file cannot be parsed; the message names it.
        StorageError: the rows are missing.
    """
    pictures = root / "image-tasks"
    # `mmeb_v1.tar.gz` unpacks into MMEB/; VLM2Vec's download script then moves the content up.
    if (pictures / "MMEB").is_dir():
        pictures /= "MMEB"
    collector = Collector(spec)
    parse = functools.partial(_parse_query, collector, pictures)
    collector.add_queries(read_table(rows_path(spec, root), COLUMNS), parse)
    return collector.build_task()


def _parse_query(collector: Collector, pictures: Path, row: TableRow) -> Query:
    """Returns a row's query and adds its candidates; raises `ValueError` if it cannot be used."""
    instruction = clean(text_of(row, "qry_inst"))
    path = text_of(row, "qry_img_path")
    # Only text-to-image queries have no picture; elsewhere an empty path is a damaged row.
    if not path and collector.spec.reader != "image_t2i":
        raise ValueError("its qry_img_path is empty")
    # `existing` looks for the file now, so that the row is skipped with a reason that names it.
    query = Input(
        clean(text_of(row, "qry_text")),
        existing(pictures, path) if path else None,
        instruction,
    )
    names = [_add_candidate(collector, pictures, row, index) for index in range(_pool_size(row))]
    # Published pools repeat candidates; a repeated right one must not compete with itself.
    return Query(query, {names[0]: 1}, tuple(dict.fromkeys(names)))


def _pool_size(row: TableRow) -> int:
    texts, paths = list_of(row, "tgt_text"), list_of(row, "tgt_img_path")
    if len(texts) != len(paths):
        raise ValueError(f"it has {len(texts)} tgt_text and {len(paths)} tgt_img_path")
    if not texts:
        raise ValueError("it has no candidates")
    return len(texts)


def _add_candidate(collector: Collector, pictures: Path, row: TableRow, index: int) -> str:
    """Adds a row's candidate to the documents and returns its name."""
    text, path = row["tgt_text"][index] or "", row["tgt_img_path"][index] or ""
    if not isinstance(text, str) or not isinstance(path, str):
        raise ValueError(f"its candidate {index} is not made of texts")
    # Names are raw text as in the benchmark, but what is embedded is clean: the placeholder marks
    # a picture's place for other models, and is text to this one.
    reader = collector.spec.reader
    if reader in TEXT_CANDIDATES:
        if not clean(text):
            raise ValueError(f"its candidate {index} is empty")
        return collector.add_document(text, lambda: Input(clean(text)))
    if not path:
        raise ValueError(f"its candidate {index} has no picture")
    # In RefCOCO-Matching several candidates are objects of one picture: only the text differs. The
    # benchmark's names leave out the quotation marks around it.
    name = path if reader == "image_t2i" else path + ":" + text.strip('"')
    instruction = clean(text_of(row, "tgt_inst"))
    return collector.add_document(
        name, lambda: Input(clean(text), existing(pictures, path), instruction)
    )
