"""What every suite is made of: tasks with queries, documents, pools and graded relevance, free of any file layout.

A document has a name, and no name occurs twice: that is how candidates are deduplicated before anything is embedded.
A query's pool is a list of names (local), or None for all documents of the task (global).

What cannot be used is left out by one rule and counted: a query goes where one of its own candidates or right
documents cannot be had, since a smaller pool would flatter; a document of a global pool goes alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError

from lame_training.suites.pictures import PictureStore

Pool = Literal["local", "global"]


@dataclass(frozen=True)
class TaskSpec:
    """A task as the benchmark defines it, whether its data are there or not."""

    name: str
    group: str
    """The benchmark's part it counts to, such as "image"."""
    metric: str
    """The figure that counts, a key of `metrics.query_metrics`."""
    pool: Pool
    reader: str
    """Which of the suite's readers understands its files."""
    source: str = ""
    """Its file or folder below the suite's, where that is not its name."""
    parts: tuple[str, ...] = ()
    """Sub-tasks that are averaged in its place; empty where the task itself counts."""
    labels: bool = False
    """Documents are class names, so that one single class would make every order right."""

    @property
    def counted(self) -> tuple[str, ...]:
        """The names that the suite's mean is taken over."""
        return self.parts or (self.name,)


@dataclass(frozen=True)
class Query:
    """What is asked, what is right, and what it is ranked against."""

    input: Input
    relevance: dict[str, int]
    """Positive grade by document name; at least one."""
    pool: tuple[str, ...] | None = None
    """Names of the candidates, none twice; None for all documents."""
    part: str = ""
    """The sub-task it counts to."""


@dataclass(frozen=True)
class Task:
    """A task's data, as far as they could be read."""

    spec: TaskSpec
    queries: list[Query]
    documents: dict[str, Input]
    rows: int
    """Queries in the data, skipped ones included."""
    skipped: list[str] = field(default_factory=list)
    """One line for each query left out."""
    missing_documents: list[str] = field(default_factory=list)
    """One line for each document left out of a global pool."""

    def without(self, bad_queries: dict[int, str], bad_documents: dict[str, str]) -> Task:
        """The task without what could not be embedded, reasons by position and by name."""
        kept, skipped = [], list(self.skipped)
        for index, query in enumerate(self.queries):
            reason = bad_queries.get(index)
            if reason is None:
                needed = (*query.relevance, *(query.pool or ()))
                reason = next((f"{name}: {bad_documents[name]}" for name in needed if name in bad_documents), None)
            if reason is None:
                kept.append(query)
            else:
                skipped.append(reason)
        documents = {name: item for name, item in self.documents.items() if name not in bad_documents}
        lost = [f"{name}: {reason}" for name, reason in bad_documents.items()] if self.spec.pool == "global" else []
        return dataclasses.replace(
            self, queries=kept, documents=documents, skipped=skipped, missing_documents=[*self.missing_documents, *lost]
        )


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    `present` says whether a task's files lie below a root; `read` reads them and raises `InputError` naming the file.
    `convention` is what figures of the same name may differ in, so that they are never put together.
    """

    name: str
    specs: tuple[TaskSpec, ...]
    present: Callable[[TaskSpec, Path], bool]
    read: Callable[[TaskSpec, Path, PictureStore], Task]
    layout: str
    """Where its files are looked for, in a few words."""
    convention: str = ""
    convention_key: str = "convention"

    def chosen(self, names: list[str] | None) -> tuple[TaskSpec, ...]:
        """The named tasks, or all; raises `InputError` for one the suite does not have."""
        if names is None:
            return self.specs
        known = {spec.name: spec for spec in self.specs}
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"--tasks {unknown[0]}: suite {self.name} has no such task; it has {', '.join(known)}")
        return tuple(known[name] for name in dict.fromkeys(names))


def check_task(task: Task) -> None:
    """Raises `InputError` where a figure would mean nothing: nothing left, one candidate, one class."""
    name = task.spec.name
    if not task.queries:
        why = f"; the first was skipped because {task.skipped[0]}" if task.skipped else ""
        raise InputError(f"task {name}: none of its {task.rows} queries can be used{why}")
    if all(len(task.documents if query.pool is None else query.pool) == 1 for query in task.queries):
        raise InputError(f"task {name}: every pool holds one candidate, so any model scores 1; check its data")
    answers = {name for query in task.queries for name in query.relevance}
    if task.spec.labels and len(answers) == 1 and len(task.queries) > 1:
        raise InputError(f"task {name}: all {len(task.queries)} queries have the one class {answers.pop()!r}; check its data")
