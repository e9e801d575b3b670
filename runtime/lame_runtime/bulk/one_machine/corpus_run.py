"""Embeds a corpus to a table: rows → parts → table → audit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lame_runtime.bulk.arrow_modules import arrow
from lame_runtime.bulk.audit import Audit, IdSum, audit
from lame_runtime.bulk.blocks import block_table, facts_of
from lame_runtime.bulk.one_machine.part_files import PartFiles
from lame_runtime.bulk.one_machine.seen_ids import SeenIds
from lame_runtime.bulk.row_vectors import Block, embed_rows
from lame_runtime.bulk.source.corpus import Corpus
from lame_runtime.bulk.source.rows import PLACE_COLUMNS, Row
from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.bulk.vector_table import ID
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError, StorageError, UsageError, first_line, shown
from lame_runtime.options import EncodeOptions
from lame_runtime.progress import progress_bar

PART_ROWS = 4096
PART_SECONDS = 20.0
"""A part ends after so many rows or seconds: what `kill -9` can cost."""


@dataclass(frozen=True)
class CorpusRun:
    """One call of `lame-runtime embed` with a table as its output.

    Attributes:
        encoder: a loaded bundle.
        corpus: the sources.
        options: of the embedding.
        output: the table.
        resume: go on with an interrupted run.
        stop_at_errors: end at the first bad row; what is before it stays for `resume`.
    """

    encoder: Encoder
    corpus: Corpus
    options: EncodeOptions
    output: Path
    resume: bool = False
    stop_at_errors: bool = False

    def run(self) -> Audit:
        """Embeds what is left, and returns the audit of the table.

        Raises:
            InputError: a source cannot be read, has changed since the run that is resumed, holds
                no row, or has a bad one and `stop_at_errors` is on.
            StorageError: the output cannot be written; complete parts stay.
            UsageError: parts or a table of another run.
            BackendError: the backend fails.
        """
        facts = facts_of(self.encoder, self.options)
        total = self.corpus.check()
        columns = {name: value for name, value in asdict(self.corpus.columns).items() if value}
        # what must be equal for parts of two runs to be put together
        run = {
            **asdict(facts),
            "sources": [*self.corpus.names, *self.corpus.texts],
            "columns": columns,
        }
        with PartFiles(self.output, run, resume=self.resume).open() as parts:
            expected: IdSum | None = None
            if not parts.is_complete:
                expected = self._embed(parts, facts, total)
                if not expected.count:
                    parts.remove()
                    names = shown(", ".join(self.corpus.names))
                    raise InputError(f"nothing to embed: {names} holds no input")
                parts.finish(facts)
            report = audit(self.output, facts, expected)
            # a table with a problem keeps its parts, so that nothing has to be embedded again
            if not report.problems:
                parts.remove()
            return report

    def _embed(self, parts: PartFiles, facts: VectorFacts, total: int | None) -> IdSum:
        """Writes the parts that are missing, and returns the ids of all rows of the source."""
        seen, ids = SeenIds(), IdSum()
        rows = self._unique(self.corpus.rows(), seen, ids, parts)
        done = ids.count
        pending: list[Block] = []
        since = time.monotonic()
        bar = progress_bar(total=total, initial=done, unit="input", leave=False)
        # one part is written while the next is embedded; there are never more than two
        with bar, ThreadPoolExecutor(1, "lame-write") as writer:
            last: Future[None] | None = None

            def flush() -> None:
                nonlocal last
                if last is not None:
                    last.result()
                last = writer.submit(self._write, parts, list(pending), facts)
                pending.clear()

            try:
                for block in embed_rows(self.encoder, rows, self.options):
                    pending.append(block)
                    bar.update(len(block.rows))
                    size = sum(len(part.rows) for part in pending)
                    if self.stop_at_errors and any(block.errors):
                        break
                    if size >= PART_ROWS or time.monotonic() - since >= PART_SECONDS:
                        flush()
                        since = time.monotonic()
            finally:
                # also after an error or ctrl-C: what is embedded is not lost
                problem = self._first_problem(pending) if self.stop_at_errors else None
                if pending:
                    flush()
                if last is not None:
                    last.result()
        if problem is not None:
            raise InputError(problem)
        return ids

    def _write(self, parts: PartFiles, blocks: list[Block], facts: VectorFacts) -> None:
        parts.add(block_table(blocks, facts))

    def _first_problem(self, pending: list[Block]) -> str | None:
        """Returns the message of the first bad row; drops that row and all rows after it."""
        for number, block in enumerate(pending):
            for row, error in enumerate(block.errors):
                if error is not None:
                    path = block.rows[row].columns.get("path")
                    kept = block.has_vector[:row].sum()
                    # rows before it in its block are good
                    pending[number:] = [
                        Block(block.rows[:row], block.vectors[:kept], block.errors[:row])
                    ][: int(row > 0)]
                    name = f"{shown(path)}: " if path and shown(path) not in error else ""
                    return f"{name}{error} (row {shown(block.rows[row].id)})"
        return None

    def _unique(
        self, source: Iterator[Row], seen: SeenIds, ids: IdSum, parts: PartFiles
    ) -> Iterator[Row]:
        """Returns the rows that no part holds, with ids that differ unless they were given."""
        parquet = arrow("parquet")
        for path in parts.paths:
            try:
                names = parquet.read_schema(path).names
                columns = [ID, *(name for name in PLACE_COLUMNS if name in names)]
                table = parquet.read_table(path, columns=columns)
            except (OSError, ValueError) as error:
                raise StorageError(
                    f"{shown(path)}: is damaged ({shown(first_line(error), 200)}); remove the "
                    "folder of parts and begin again"
                ) from None
            for known in table.to_pylist():
                seen.restore(known[ID])
            known_rows = table.to_pylist()
            # read again and hashed, because only the content shows that it is the same
            skipped = list(islice(source, len(known_rows)))
            for known, row in zip(known_rows, skipped, strict=False):
                _require_equal(known, row)
            if len(skipped) < len(known_rows):
                raise UsageError(
                    f"{shown(parts.folder)}: holds more rows than the source has now; "
                    "remove the folder and begin again"
                )
            ids.add(known[ID] for known in known_rows)

        def rest() -> Iterator[Row]:
            for row in source:
                if not row.is_given:
                    row.id = seen.unique(row.id)
                ids.add([row.id])
                yield row

        return rest()


def _require_equal(known: dict[str, Any], row: Row) -> None:
    """Raises `UsageError` if a row of the source is not the one that was embedded."""
    # a given id says nothing of the content, so what is kept of it has to be equal
    changed = any(known.get(name) != row.columns.get(name) for name in PLACE_COLUMNS)
    # a repeated content has a number behind its id
    if row.is_given:
        same = known[ID] == row.id and not changed
    else:
        same = known[ID] == row.id or known[ID].startswith(f"{row.id}-")
    if not same:
        place = known.get("path") or known.get("text") or known[ID]
        raise UsageError(
            f"{shown(place)}: the source has changed since the run that is resumed; remove the "
            "folder of parts and begin again"
        )
