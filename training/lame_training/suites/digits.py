"""The embedded digits as a suite: `ROOT/SPLIT/TASK.jsonl`, MMEB's evaluation rows with local pools."""

from __future__ import annotations

from pathlib import Path

from lame_runtime.contract.prompts import Input
from lame_runtime.retrieval import key, read_rows, tasks

from lame_training.suites.base import Query, Suite, Task, TaskSpec
from lame_training.suites.pictures import PictureStore


def digits(root: Path, split: str = "eval") -> Suite:
    """The tasks that lie below `root`; raises `InputError` where there are none."""
    specs = tuple(TaskSpec(name, "digits", "hit@1", "local", split) for name in tasks(root, split))
    return Suite("digits", specs, lambda spec, root: True, _read, "SPLIT/TASK.jsonl", split, "split")


def _read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    documents: dict[str, Input] = {}
    queries = []
    for row in read_rows(root, spec.name, spec.reader):
        names = ["\n".join(key(item)) for item in row.candidates]
        documents |= dict(zip(names, row.candidates, strict=True))
        queries.append(Query(row.query, {names[0]: 1}, tuple(names)))
    return Task(spec, queries, documents, len(queries))
