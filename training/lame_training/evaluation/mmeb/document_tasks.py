"""Reads MMEB's visual-document tasks: BEIR's three tables, graded relevance, one pool of all pages.

    ROOT/visdoc-tasks/data/NAME/queries/*.parquet    query-id query
                                corpus/*.parquet     corpus-id image{bytes, path}
                                qrels/*.parquet      query-id corpus-id score

This is the layout of the hub's `vidore/…_beir`, `openbmb/VisRAG-Ret-Test-…` and `VLM2Vec/…`.

Source: `src/data/eval_dataset/vidore_dataset.py`, `visrag_dataset.py` and `load_qrels_mapping` of
VLM2Vec. Grades of 0 are dropped, and of several grades for one pair the highest counts.
"""

from __future__ import annotations

from pathlib import Path

from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError, shown

from lame_training.evaluation.suites.collector import Collector
from lame_training.evaluation.suites.picture_store import PictureStore
from lame_training.evaluation.suites.suite import Query, Task, TaskSpec
from lame_training.evaluation.suites.tables import TableRow, name_of, read_table, text_of

# The benchmark's own words: instructions are part of what is measured.
QUERY_INSTRUCTION = "Find a document image that matches the given query:"
MAX_GRADE = 100
"""Largest relevance; nDCG with exponential gains is two to this power."""
PAGE_INSTRUCTION = "Understand the content of the provided document image."


def rows_path(spec: TaskSpec, root: Path) -> Path:
    """Returns the folder of a task's three tables."""
    return root / "visdoc-tasks" / "data" / spec.source


def read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    """Reads a task.

    Raises:
        InputError: a file cannot be parsed; the message names it.
        StorageError: a table is missing, or the disk refuses the pages.
    """
    folder = rows_path(spec, root)
    grades = read_grades(folder / "qrels")
    collector = Collector(spec)

    # `put_cell` writes each page to disk while the table is read, so that a corpus of tens of
    # gigabytes passes through memory a few rows at a time.
    def make_page(row: TableRow) -> Input:
        return Input(image=store.put_cell(row["image"]), instruction=PAGE_INSTRUCTION)

    def parse(row: TableRow) -> Query:
        relevance = grades.get(name_of(row, "query-id"))
        if not relevance:
            raise ValueError("no document is right for it")
        return Query(Input(text_of(row, "query").strip(), instruction=QUERY_INSTRUCTION), relevance)

    # The corpus first: `add_queries` skips a query whose relevant page is not there yet.
    corpus = read_table(folder / "corpus", ("corpus-id", "image"))
    collector.add_corpus(corpus, "corpus-id", make_page)
    collector.add_queries(read_table(folder / "queries", ("query-id", "query")), parse)
    return collector.build_task()


def read_grades(table: Path) -> dict[str, dict[str, int]]:
    """Reads relevance judgments: positive grade by query and document.

    Args:
        table: a table with the columns query-id, corpus-id and score, written with `-` or `_`.

    Raises:
        InputError: a row is no judgment.
        StorageError: there is no such table.
    """
    grades: dict[str, dict[str, int]] = {}
    for number, row in enumerate(read_table(table, ()), 1):
        # MMEB's tables spell the columns with `-`, those of MRMR in either way.
        cells = {column.replace("_", "-"): value for column, value in row.items()}
        try:
            query = name_of(cells, "query-id")
            document = name_of(cells, "corpus-id")
            score = int(cells["score"])
            if abs(score) > MAX_GRADE:
                raise ValueError(f"the score is beyond {MAX_GRADE}")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{table}, row {number}: not a relevance judgment ({shown(repr(error))}); "
                "it must have query-id, corpus-id and score"
            ) from None
        # BEIR lists judged but irrelevant documents with a score of 0.
        if score > 0:
            query_grades = grades.setdefault(query, {})
            query_grades[document] = max(score, query_grades.get(document, 0))
    return grades
