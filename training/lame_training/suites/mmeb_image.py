"""MMEB's image tasks: one row is a query with its own pool, candidate 0 the right one.

    ROOT/image-query/TASK/*.parquet    qry_inst qry_text qry_img_path tgt_inst tgt_text[] tgt_img_path[]
    ROOT/image-tasks/                  the pictures, paths in the rows relative to it, or to MMEB/ inside it

The rows are those of the hub's MMEB_Test_Instruct (those of MMEB-eval lack the two instructions), the pictures those of
MMEB-V2's `mmeb_v1.tar.gz`. Source: VLM2Vec's `src/data/eval_dataset/image_*.py` and `experiments/public/data/download_data.sh`.
Candidates are deduplicated by the names that code gives them: their text, their picture's path, or both.
"""

from __future__ import annotations

from pathlib import Path

from lame_runtime.contract.prompts import Input, clean

from lame_training.suites.base import Query, Task, TaskSpec
from lame_training.suites.pictures import PictureStore
from lame_training.suites.rows import Collector, Row, existing, list_of, read_table, text_of

COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")


def place(spec: TaskSpec, root: Path) -> Path:
    """The folder of a task's rows."""
    return root / "image-query" / spec.name


def read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    """Reads a task; raises `InputError` naming the file that cannot be read."""
    pictures = root / "image-tasks"
    if (pictures / "MMEB").is_dir():
        pictures /= "MMEB"
    collector = Collector(spec)

    def parse(row: Row) -> Query:
        instruction = clean(text_of(row, "qry_inst"))
        path = text_of(row, "qry_img_path")
        if not path and spec.reader != "image_t2i":
            raise ValueError("its qry_img_path is empty")
        asked = Input(clean(text_of(row, "qry_text")), existing(pictures / path) if path else None, instruction)
        pool = [_candidate(spec, row, index, pictures, collector) for index in range(_pool_size(row))]
        return Query(asked, {pool[0]: 1}, tuple(dict.fromkeys(pool)))

    collector.read(read_table(place(spec, root), COLUMNS), parse)
    return collector.task()


def _pool_size(row: Row) -> int:
    texts, paths = list_of(row, "tgt_text"), list_of(row, "tgt_img_path")
    if len(texts) != len(paths):
        raise ValueError(f"it has {len(texts)} tgt_text and {len(paths)} tgt_img_path")
    if not texts:
        raise ValueError("it has no candidates")
    return len(texts)


def _candidate(spec: TaskSpec, row: Row, index: int, pictures: Path, collector: Collector) -> str:
    """Adds a candidate and returns its name."""
    text, path = row["tgt_text"][index] or "", row["tgt_img_path"][index] or ""
    if not isinstance(text, str) or not isinstance(path, str):
        raise ValueError(f"its candidate {index} is not made of texts")
    if spec.reader in ("image_cls", "image_qa", "image_i2t"):
        if not clean(text):
            raise ValueError(f"its candidate {index} is empty")
        return collector.document(text, lambda: Input(clean(text)))
    if not path:
        raise ValueError(f"its candidate {index} has no picture")
    name = path if spec.reader == "image_t2i" else path + ":" + text.strip('"')
    instruction = clean(text_of(row, "tgt_inst"))
    return collector.document(name, lambda: Input(clean(text), existing(pictures / path), instruction))
