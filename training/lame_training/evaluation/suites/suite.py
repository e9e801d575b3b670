"""Defines what every suite is made of: tasks with queries, documents, pools and graded relevance.

Nothing here depends on a file layout. Every document has a name that is unique within its task, so
candidates are deduplicated before anything is embedded. A query's pool is a tuple of names (local),
or None for all documents of the task (global).

Data that cannot be used are left out by one rule, and counted. A query is skipped if one of its own
candidates or relevant documents is unusable, because a smaller pool would make the query easier. A
document of a global pool is left out alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError, UsageError

from lame_training.evaluation.suites.picture_store import PictureStore

PoolScope = Literal["local", "global"]
"""Whether each query ranks candidates of its own or all documents of the task."""


@dataclass(frozen=True)
class TaskSpec:
    """A task as the benchmark defines it, whether or not its data are present."""

    name: str
    group: str
    """The part of the benchmark that the task belongs to, such as "image"."""
    metric: str
    """The reported figure, a key of `metrics.query_metrics`."""
    pool_scope: PoolScope
    reader: str
    """Name of the suite's reader that parses the task's files."""
    source: str = ""
    """File or folder below the suite's data folder, if its name differs from the task's."""
    parts: tuple[str, ...] = ()
    """Sub-tasks that are averaged in place of the task; empty if the task itself counts."""
    documents_are_labels: bool = False
    """Whether documents are class names, so that a task with a single class is meaningless."""

    @property
    def counted(self) -> tuple[str, ...]:
        """The names that the suite's mean is taken over."""
        return self.parts or (self.name,)


@dataclass(frozen=True)
class Query:
    """A query input, its relevant documents, and the pool it is ranked against."""

    input: Input
    relevance: dict[str, int]
    """Positive grade by document name; at least one entry."""
    pool: tuple[str, ...] | None = None
    """Distinct names of the candidates; None for all documents of the task."""
    part: str = ""
    """The sub-task that the query counts toward; empty if the task has none."""


@dataclass(frozen=True)
class Task:
    """The usable data of one task, and the reasons for what was left out."""

    spec: TaskSpec
    queries: list[Query]
    documents: dict[str, Input]
    """Documents by name."""
    rows: int
    """Number of queries in the data, skipped ones included."""
    skipped: list[str] = field(default_factory=list)
    """One line for each query left out."""
    missing_documents: list[str] = field(default_factory=list)
    """One line for each document left out of a global pool."""

    def without(self, bad_queries: dict[int, str], bad_documents: dict[str, str]) -> Task:
        """Returns the task without the inputs that could not be embedded.

        Args:
            bad_queries: reason by index into `queries`.
            bad_documents: reason by document name.
        """
        # `skipped` and `missing_documents` go on from what reading has left out.
        usable, skipped = [], list(self.skipped)
        for index, query in enumerate(self.queries):
            reason = bad_queries.get(index) or _unusable_document(query, bad_documents)
            if reason is None:
                usable.append(query)
            else:
                skipped.append(reason)
        documents = {
            name: item for name, item in self.documents.items() if name not in bad_documents
        }
        missing = list(self.missing_documents)
        # In a local pool a lost document has already cost its queries; it is not counted twice.
        if self.spec.pool_scope == "global":
            missing += [f"{name}: {reason}" for name, reason in bad_documents.items()]
        return dataclasses.replace(
            self, queries=usable, documents=documents, skipped=skipped, missing_documents=missing
        )


@dataclass(frozen=True)
class Suite:
    """A benchmark: its tasks, and how their files are found and read."""

    name: str
    specs: tuple[TaskSpec, ...]
    present: Callable[[TaskSpec, Path], bool]
    """Returns whether a task's files exist below a root."""
    read: Callable[[TaskSpec, Path, PictureStore], Task]
    """Reads a task below a root; raises `InputError` or `StorageError` that names the file."""
    layout: str
    """A short description of where the files are expected, for messages."""
    convention: str = ""
    """Separates figures that share a task's name but must never be compared or averaged."""
    convention_key: str = "convention"
    """JSON key under which results and reports store the convention."""

    def select(self, names: list[str] | None) -> tuple[TaskSpec, ...]:
        """Returns the named tasks, or all; raises `UsageError` for a task the suite lacks."""
        if names is None:
            return self.specs
        known = {spec.name: spec for spec in self.specs}
        # A misspelled task must not pass as one without data.
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UsageError(
                f"`tasks` names {unknown[0]}, but suite {self.name} has no such task; "
                f"it has {', '.join(known)}"
            )
        # A task that is named twice is run once.
        return tuple(known[name] for name in dict.fromkeys(names))


def check_task(task: Task) -> None:
    """Raises `InputError` if a figure would mean nothing: no query, one candidate, or one class."""
    name = task.spec.name
    if not task.queries:
        reason = f"; the first was skipped because {task.skipped[0]}" if task.skipped else ""
        raise InputError(f"task {name}: none of its {task.rows} queries can be used{reason}")
    # Without this check, data that make every order right would look like a perfect model.
    pool_sizes = {
        len(task.documents if query.pool is None else query.pool) for query in task.queries
    }
    if pool_sizes == {1}:
        raise InputError(
            f"task {name}: every pool holds one candidate, so any model scores 1; check its data"
        )
    labels = {label for query in task.queries for label in query.relevance}
    # A single query has a single class without being suspicious.
    if task.spec.documents_are_labels and len(labels) == 1 and len(task.queries) > 1:
        raise InputError(
            f"task {name}: all {len(task.queries)} queries have the one class {labels.pop()!r}; "
            "check its data"
        )


def _unusable_document(query: Query, bad_documents: dict[str, str]) -> str | None:
    """Returns why a query cannot be ranked: the first unusable document it needs, if any."""
    # Only the query's own pool: a global one may lose a document without losing its queries.
    for name in (*query.relevance, *(query.pool or ())):
        if name in bad_documents:
            return f"{name}: {bad_documents[name]}"
    return None
