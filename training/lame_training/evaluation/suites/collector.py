"""Collects the rows of a data set into a task."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable

from lame_runtime.contract.prompts import Input

from lame_training.evaluation.suites.suite import Query, Task, TaskSpec
from lame_training.evaluation.suites.tables import TableRow, name_of


class Collector:
    """Collects the queries and documents of a task, and counts unusable rows with their reasons.

    Args:
        spec: the task.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.documents: dict[str, Input] = {}
        """Usable documents by name."""
        self.missing: dict[str, str] = {}
        """Reason by name of an unusable document."""
        self._queries: list[Query] = []
        self._skipped: list[str] = []
        self._rows = 0

    def add_document(self, name: str, make: Callable[[], Input]) -> str:
        """Makes a document unless one with this name exists, and returns the name.

        Raises:
            ValueError: the document cannot be made; raised again for every later row that names it.
        """
        # Raised again rather than tried again: a picture may be in hundreds of pools, and each of
        # these rows must be skipped with the same reason.
        if name in self.missing:
            raise ValueError(self.missing[name])
        if name not in self.documents:
            try:
                self.documents[name] = make()
            except (ValueError, OSError) as error:
                # OSError: a folder of frames that may not be listed
                self.missing[name] = str(error)
                raise ValueError(self.missing[name]) from None
        return name

    def add_corpus(
        self, rows: Iterable[TableRow], name_column: str, make: Callable[[TableRow], Input]
    ) -> None:
        """Makes a document of each row, named by a column, and records the unusable ones."""
        for row in rows:
            # The reason is kept in `missing`; it concerns only the queries that need the document.
            with contextlib.suppress(ValueError):
                self.add_document(name_of(row, name_column), functools.partial(make, row))

    def add_queries(self, rows: Iterable[TableRow], parse: Callable[[TableRow], Query]) -> None:
        """Turns rows into queries.

        Args:
            rows: the rows of the query table.
            parse: makes a query of a row, or raises `ValueError` with the reason to skip it. It may
                add the row's candidates to this collector.
        """
        for row in rows:
            # Counted before parsing: `rows` is the size of the published task, not of what is left.
            self._rows += 1
            try:
                query = parse(row)
                self._check_relevant(query)
            except (ValueError, OSError) as error:
                self._skipped.append(f"row {self._rows}: {error}")
            else:
                self._queries.append(query)

    def _check_relevant(self, query: Query) -> None:
        # Dropping the relevant document alone would leave a query that nothing can answer.
        for name in query.relevance:
            if name not in self.documents:
                reason = self.missing.get(name, "does not exist")
                raise ValueError(f"its right document {name} {reason}")

    def build_task(self) -> Task:
        """Returns the task; of a local pool's documents only those that a query ranks."""
        if self.spec.pool_scope == "global":
            documents = self.documents
            missing = [f"{name}: {reason}" for name, reason in self.missing.items()]
        else:
            # Candidates of skipped rows would be embedded for nothing.
            ranked = {name for query in self._queries for name in query.pool or ()}
            documents = {name: item for name, item in self.documents.items() if name in ranked}
            missing = []
        return Task(self.spec, self._queries, documents, self._rows, self._skipped, missing)
