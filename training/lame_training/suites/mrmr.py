"""MRMR (arXiv 2510.09510): expert-level retrieval where queries and documents interleave texts and pictures.

    ROOT/NAME/{query,corpus,qrels}/test-*.parquet    NAME: knowledge theorem design traffic negation
        query    id modality text image [category] ["image 1" … ]        corpus    id modality text image ["image 1" …] vision
        qrels    query_id corpus_id score, or with dashes

are clones of the hub's `MRMRbenchmark/NAME`. Source: the data sets' cards and rebeccaz4/MRMR (`mteb/tasks/Image/…`), whose
instructions and categories stand here word for word, since they are part of what is measured.

Eleven sub-tasks are averaged: four disciplines each of knowledge and theorem, and the three contradiction tasks. All count
nDCG@10, but negation: it is hit@1 over a query's own candidates, which carry its id and a number. `<image>` and
`<image 2>` in a text stand for those columns' pictures; a picture no text mentions comes first. Where numbered pictures exist,
`image` is those merged into one, for models that take one only, and is left out; so is `vision`, a picture of the whole
document, which `mteb`'s version of these tasks embeds instead (and scores nDCG@10 throughout: other figures).
"""

from __future__ import annotations

import re
from pathlib import Path

from lame_runtime.contract.prompts import Input, Part, Picture

from lame_training.suites.base import Query, Suite, Task, TaskSpec
from lame_training.suites.mmeb_visdoc import read_grades
from lame_training.suites.pictures import PictureStore
from lame_training.suites.rows import Collector, Row, name_of, read_table, tables, text_of

INSTRUCTIONS = {
    "knowledge": "Retrieve relevant documents that help answer the question.",
    "theorem": "Retrieve relevant theorems that are involved in solving the problem.",
    "design": "Given a vehicle design, retrieve the design requirements that it violates.",
    "traffic": "Given a traffic case, retrieve the driving rule documents that it violates.",
    "negation": "Given an image, retrieve descriptions that have contradictory information with the image.",
}
DISCIPLINES = {
    "knowledge": {
        "Art": "Art Art_Theory Design Music",
        "Humanities": "Sociology Literature History Psychology",
        "Medicine": "Clinical_Medicine Diagnostics_and_Laboratory_Medicine Basic_Medical_Science Pharmacy",
        "Science": "Biology Chemistry Geography Agriculture",
    },
    "theorem": {
        "Business": "Accounting Finance Manage Marketing Economics",
        "Engineering": "Electronics Computer_Science Mechanical_Engineering Materials Architecture_and_Engineering",
        "Math": "Math",
        "Physics": "Physics Energy_and_Power",
    },
}
"""The categories of each discipline; a discipline is a sub-task."""
_MARK = re.compile(r"<image(?: (\d+))?>")


def mrmr() -> Suite:
    """The suite."""
    known = [TaskSpec(name, name, "ndcg_linear@10", "global", "mrmr", parts=tuple(DISCIPLINES[name])) for name in ("knowledge", "theorem")]
    contradictions = [TaskSpec(name, "contradiction", "ndcg_linear@10", "global", "mrmr") for name in ("design", "traffic")]
    negation = TaskSpec("negation", "contradiction", "hit@1", "local", "mrmr")
    specs = (*known, *contradictions, negation)
    return Suite("mrmr", specs, lambda spec, root: bool(tables(root / spec.name / "query")), read, "NAME/{query,corpus,qrels}/*.parquet")


def read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    """Reads a task; raises `InputError` naming the file that cannot be read."""
    folder = root / spec.name
    grades = read_grades(folder / "qrels")
    categories = {each: part for part, names in DISCIPLINES.get(spec.name, {}).items() for each in names.split()}
    collector = Collector(spec)
    collector.corpus(read_table(folder / "corpus", ("id", "text")), "id", lambda row: interleaved(row, store, None))
    own: dict[str, list[str]] = {}
    for name in (*collector.documents, *collector.missing):
        own.setdefault(name.rpartition("_")[0], []).append(name)

    def parse(row: Row) -> Query:
        name = name_of(row, "id")
        relevance = grades.get(name)
        if not relevance:
            raise ValueError("no document is right for it")
        part = ""
        if categories:
            category = text_of(row, "category")
            if category not in categories:
                raise ValueError(f"its category {category!r} belongs to no sub-task")
            part = categories[category]
        pool = None
        if spec.pool == "local":
            pool = tuple(dict.fromkeys([*relevance, *own.get(name, ())]))
            if lost := [each for each in pool if each in collector.missing]:
                raise ValueError(f"its candidate {lost[0]}: {collector.missing[lost[0]]}")
        return Query(interleaved(row, store, INSTRUCTIONS[spec.name]), relevance, pool, part)

    collector.read(read_table(folder / "query", ("id", "text")), parse)
    return collector.task()


def interleaved(row: Row, store: PictureStore, instruction: str | None) -> Input:
    """A row's texts and pictures in their order.

    Raises:
        ValueError: the row is empty, or mentions a picture that it lacks though it has others.
    """
    text = text_of(row, "text")
    numbered = {
        int(column.removeprefix("image ")): store.cell(value)
        for column, value in row.items()
        if column.startswith("image ") and column.removeprefix("image ").isdigit() and value is not None
    }
    single = store.cell(row["image"]) if row.get("image") is not None else None
    if not numbered and single is not None:
        numbered = {1: single}
    parts: list[Part] = []
    mentioned = set()
    position = 0
    for mark in _MARK.finditer(text) if numbered else ():
        number = int(mark[1] or 1)
        path = single if mark[1] is None and single is not None else numbered.get(number)
        if path is None:
            raise ValueError(f"its text mentions {mark[0]}, but that picture is missing")
        mentioned |= set(numbered) if mark[1] is None else {number}
        parts += [text[position : mark.start()], Picture(path)]
        position = mark.end()
    parts.append(text[position:])
    first = [Picture(path) for number, path in sorted(numbered.items()) if number not in mentioned]
    content = tuple(part for part in (*first, *parts) if not isinstance(part, str) or part.strip())
    if not content:
        raise ValueError("it has neither a text nor a picture")
    return Input(instruction=instruction, content=content)
