"""Makes a suite of the embedded digits: MMEB's evaluation rows with local pools.

Layout: `ROOT/SPLIT/TASK.jsonl`, see `evaluation.retrieval`.
"""

from __future__ import annotations

from pathlib import Path

from lame_runtime.contract.prompts import Input, input_key

from lame_training.evaluation.retrieval import read_rows, tasks
from lame_training.evaluation.suites.picture_store import PictureStore
from lame_training.evaluation.suites.suite import Query, Suite, Task, TaskSpec


def digits(root: Path, split: str = "eval") -> Suite:
    """Returns the suite of the tasks below `root`; raises `StorageError` if there are none.

    Args:
        root: the data folder that `lame-train digits` wrote.
        split: "eval" or "valid".
    """
    # The field `reader` carries the split, because `_read` gets nothing but the spec.
    specs = tuple(
        TaskSpec(name, "digits", metric="hit@1", pool_scope="local", reader=split)
        for name in tasks(root, split)
    )
    return Suite(
        "digits",
        specs,
        present=_present,
        read=_read,
        layout="SPLIT/TASK.jsonl",
        # Figures of two splits must not be mixed any more than those of two conventions.
        convention=split,
        convention_key="split",
    )


def _present(_spec: TaskSpec, _root: Path) -> bool:
    """Returns True: the specs were made from the files that exist."""
    return True


def _read(spec: TaskSpec, root: Path, _store: PictureStore) -> Task:
    documents: dict[str, Input] = {}
    queries = []
    for row in read_rows(root, spec.name, spec.reader):
        # These rows do not name their candidates, so a candidate's identity is its name: equal
        # candidates of two rows become one document and are embedded once.
        names = ["\n".join(input_key(item)) for item in row.candidates]
        documents |= dict(zip(names, row.candidates, strict=True))
        queries.append(Query(row.query, {names[0]: 1}, tuple(names)))
    return Task(spec, queries, documents, rows=len(queries))
