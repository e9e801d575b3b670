"""Reads MRMR: expert-level retrieval in which queries and documents interleave texts and pictures.

    ROOT/NAME/{query,corpus,qrels}/test-*.parquet    NAME: knowledge theorem design traffic negation
        query     id modality text image [category] ["image 1" …]
        corpus    id modality text image ["image 1" …] vision
        qrels     query_id corpus_id score, or with dashes

These are clones of the hub's `MRMRbenchmark/NAME`.

Source: arXiv 2510.09510, the data sets' cards, and rebeccaz4/MRMR (`mteb/tasks/Image/…`). The
instructions and categories are that code's own words, since they are part of what is measured.

Eleven sub-tasks are averaged: four disciplines each of knowledge and theorem, and the three
contradiction tasks. All use nDCG@10, except negation: it uses hit@1 over a query's own candidates,
whose names are the query's name and a number.

`<image>` and `<image 2>` in a text stand for the pictures in those columns; a picture that no text
mentions comes first. If numbered pictures exist, `image` is all of them merged into one, for models
that accept one picture only, and is left out. So is `vision`, a picture of the whole document.
`mteb`'s version of these tasks embeds that one instead, with nDCG@10 throughout, so its figures
differ.
"""

from __future__ import annotations

import re
from pathlib import Path

from lame_runtime.contract.prompts import Input, Part, Picture
from lame_runtime.errors import shown

from lame_training.evaluation.mmeb.document_tasks import read_grades
from lame_training.evaluation.suites.collector import Collector
from lame_training.evaluation.suites.picture_store import PictureStore
from lame_training.evaluation.suites.suite import Query, Suite, Task, TaskSpec
from lame_training.evaluation.suites.tables import (
    TableRow,
    name_of,
    read_table,
    table_files,
    text_of,
)

INSTRUCTIONS = {
    "knowledge": "Retrieve relevant documents that help answer the question.",
    "theorem": "Retrieve relevant theorems that are involved in solving the problem.",
    "design": "Given a vehicle design, retrieve the design requirements that it violates.",
    "traffic": "Given a traffic case, retrieve the driving rule documents that it violates.",
    "negation": (
        "Given an image, retrieve descriptions that have contradictory information with the image."
    ),
}
"""Instruction of the queries, by task name; documents have none."""
DISCIPLINES = {
    "knowledge": {
        "Art": "Art Art_Theory Design Music",
        "Humanities": "Sociology Literature History Psychology",
        "Medicine": (
            "Clinical_Medicine Diagnostics_and_Laboratory_Medicine Basic_Medical_Science Pharmacy"
        ),
        "Science": "Biology Chemistry Geography Agriculture",
    },
    "theorem": {
        "Business": "Accounting Finance Manage Marketing Economics",
        "Engineering": (
            "Electronics Computer_Science Mechanical_Engineering Materials "
            "Architecture_and_Engineering"
        ),
        "Math": "Math",
        "Physics": "Physics Energy_and_Power",
    },
}
"""Categories, separated by spaces, by task and discipline; each discipline is a sub-task."""
# "<image 2>" is the column "image 2"; a bare "<image>" is the column "image", or else picture 1.
_MARK = re.compile(r"<image(?: (\d+))?>")


def mrmr() -> Suite:
    """Returns the suite of MRMR's five tasks."""
    disciplines = [
        TaskSpec(
            name,
            name,
            metric="ndcg_linear@10",
            pool_scope="global",
            reader="mrmr",
            parts=tuple(DISCIPLINES[name]),
        )
        for name in ("knowledge", "theorem")
    ]
    contradictions = [
        TaskSpec(name, "contradiction", "ndcg_linear@10", pool_scope="global", reader="mrmr")
        for name in ("design", "traffic")
    ]
    # The question is which of a picture's own statements contradicts it, so the pool is local.
    negation = TaskSpec("negation", "contradiction", "hit@1", pool_scope="local", reader="mrmr")
    return Suite(
        "mrmr",
        (*disciplines, *contradictions, negation),
        present=lambda spec, root: bool(table_files(root / spec.name / "query")),
        read=read,
        layout="NAME/{query,corpus,qrels}/*.parquet",
    )


def read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    """Reads a task.

    Raises:
        InputError: a file cannot be parsed; the message names it.
        StorageError: a table is missing, or the disk refuses the pictures.
    """
    folder = root / spec.name
    grades = read_grades(folder / "qrels")
    collector = Collector(spec)
    # The corpus first: a query's own candidates are found by the documents' names.
    corpus = read_table(folder / "corpus", ("id", "text"))
    collector.add_corpus(corpus, "id", lambda row: interleaved(row, store, None))
    own_candidates = _own_candidates(collector)

    def parse(row: TableRow) -> Query:
        name = name_of(row, "id")
        # A query without judgments would score 0 with any model.
        relevance = grades.get(name)
        if not relevance:
            raise ValueError("no document is right for it")
        part = _discipline(spec, row)
        pool = None
        if spec.pool_scope == "local":
            # Relevant documents first and once, even if they are not named like the query.
            pool = tuple(dict.fromkeys([*relevance, *own_candidates.get(name, ())]))
            _check_usable(collector, pool)
        return Query(interleaved(row, store, INSTRUCTIONS[spec.name]), relevance, pool, part)

    collector.add_queries(read_table(folder / "query", ("id", "text")), parse)
    return collector.build_task()


def _own_candidates(collector: Collector) -> dict[str, list[str]]:
    """Returns the names of the documents by query: "n3_1" to "n3_4" belong to the query "n3"."""
    candidates: dict[str, list[str]] = {}
    # Unusable documents as well: a query that needs one must be skipped, not made easier.
    for name in (*collector.documents, *collector.missing):
        candidates.setdefault(name.rpartition("_")[0], []).append(name)
    return candidates


def _check_usable(collector: Collector, pool: tuple[str, ...]) -> None:
    for name in pool:
        if name in collector.missing:
            raise ValueError(f"its candidate {name}: {collector.missing[name]}")


def _discipline(spec: TaskSpec, row: TableRow) -> str:
    """Returns the discipline that a row's category belongs to; empty for a task without any."""
    if spec.name not in DISCIPLINES:
        return ""
    # An unknown category is an error of the data: its query would be in no mean.
    category = text_of(row, "category")
    for discipline, categories in DISCIPLINES[spec.name].items():
        if category in categories.split():
            return discipline
    raise ValueError(f"its category {shown(repr(category))} belongs to no sub-task")


def interleaved(row: TableRow, store: PictureStore, instruction: str | None) -> Input:
    """Returns an input of a row's texts and pictures in the order of the text.

    Args:
        row: a row of the query or corpus table.
        store: takes the pictures.
        instruction: of a query; None for a document.

    Raises:
        ValueError: the row is empty, or mentions a picture that it lacks though it has others.
    """
    text = text_of(row, "text")
    pictures = _numbered_pictures(row, store)
    single = store.put_cell(row["image"]) if row.get("image") is not None else None
    if not pictures and single is not None:
        pictures = {1: single}
    parts: list[Part] = []
    mentioned: set[int] = set()
    position = 0
    # In a row without pictures a mark is ordinary text.
    for mark in _MARK.finditer(text) if pictures else ():
        # longer numbers name no column, and Python refuses those of thousands of digits
        number = int((mark[1] or "1")[:9])
        if mark[1] is None and single is not None:
            path: str | None = single
        else:
            path = pictures.get(number)
        if path is None:
            raise ValueError(f"its text mentions {mark[0]}, but that picture is missing")
        # A bare <image> stands for the merged picture, which shows all numbered ones.
        mentioned |= set(pictures) if mark[1] is None else {number}
        parts += [text[position : mark.start()], Picture(path)]
        position = mark.end()
    # Blank texts are dropped below, those that lie between two pictures included.
    parts.append(text[position:])
    unmentioned = [
        Picture(path) for number, path in sorted(pictures.items()) if number not in mentioned
    ]
    content = tuple(
        part for part in (*unmentioned, *parts) if not isinstance(part, str) or part.strip()
    )
    if not content:
        raise ValueError("it has neither a text nor a picture")
    return Input(instruction=instruction, content=content)


def _numbered_pictures(row: TableRow, store: PictureStore) -> dict[int, str]:
    """Returns the paths of the pictures in the columns "image 1", "image 2", …, by number."""
    paths = {}
    for column, cell in row.items():
        number = column.removeprefix("image ")
        # Parquet gives every row all columns; those it does not use are null.
        if (
            column.startswith("image ")
            and number.isdecimal()
            and len(number) < 10
            and cell is not None
        ):
            paths[int(number)] = store.put_cell(cell)
    return paths
