"""MMEB's visual-document tasks: BEIR's three tables, graded relevance, all pages ranked for every query.

    ROOT/visdoc-tasks/data/NAME/queries/*.parquet    query-id query
                                corpus/*.parquet     corpus-id image{bytes, path}
                                qrels/*.parquet      query-id corpus-id score

as in the hub's `vidore/…_beir`, `openbmb/VisRAG-Ret-Test-…` and `VLM2Vec/…`. Source: VLM2Vec's `src/data/eval_dataset/vidore_dataset.py`,
`visrag_dataset.py` and `load_qrels_mapping`: grades of 0 are dropped, of several the highest counts. The two
instructions are the benchmark's own, word for word, since they are part of what is measured.
"""

from __future__ import annotations

from pathlib import Path

from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError

from lame_training.suites.base import Query, Task, TaskSpec
from lame_training.suites.pictures import PictureStore
from lame_training.suites.rows import Collector, Row, name_of, read_table, text_of

ASK = "Find a document image that matches the given query:"
READ = "Understand the content of the provided document image."


def place(spec: TaskSpec, root: Path) -> Path:
    """The folder of a task's three tables."""
    return root / "visdoc-tasks" / "data" / spec.source


def read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    """Reads a task; raises `InputError` naming the file that cannot be read."""
    folder = place(spec, root)
    grades = read_grades(folder / "qrels")
    collector = Collector(spec)

    def page(row: Row) -> Input:
        return Input(image=store.cell(row["image"]), instruction=READ)

    collector.corpus(read_table(folder / "corpus", ("corpus-id", "image")), "corpus-id", page)

    def parse(row: Row) -> Query:
        relevance = grades.get(name_of(row, "query-id"))
        if not relevance:
            raise ValueError("no document is right for it")
        return Query(Input(text_of(row, "query").strip(), instruction=ASK), relevance)

    collector.read(read_table(folder / "queries", ("query-id", "query")), parse)
    return collector.task()


def read_grades(place: Path) -> dict[str, dict[str, int]]:
    """Positive grades by query and document; the columns may be written with `-` or `_`; raises `InputError`."""
    grades: dict[str, dict[str, int]] = {}
    for number, row in enumerate(read_table(place, ()), 1):
        plain = {column.replace("_", "-"): value for column, value in row.items()}
        try:
            query, document, score = str(plain["query-id"]), str(plain["corpus-id"]), int(plain["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{place}, row {number}: not a relevance judgement ({error!r}); it has query-id, corpus-id, score") from None
        if score > 0:
            found = grades.setdefault(query, {})
            found[document] = max(score, found.get(document, 0))
    return grades
