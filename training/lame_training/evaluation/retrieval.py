"""Measures hit@1 on MMEB-style evaluation rows: one query and its pool, the right candidate first.

This is the small evaluation: it takes any function that embeds, needs no files but the rows, and
writes nothing. The exporter's gates, the demo and the studies use it to compare two encoders on the
same rows. Published benchmarks run in `runner`, which caches, resumes and reports.

    ROOT/SPLIT/TASK.jsonl    qry_inst qry_text qry_img_path tgt_inst tgt_text[] tgt_img_path[]

The paths of pictures are relative to ROOT, and must not lead out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lame_runtime.contract.batch import Floats
from lame_runtime.contract.prompts import Input, InputKey, clean, distinct_inputs, input_key
from lame_runtime.errors import InputError, StorageError, shown
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.regular import read_regular

from lame_training.evaluation.ranking import best_first
from lame_training.evaluation.suites.tables import place_below

Embed = Callable[[list[Input], str], Floats]
"""Embeds inputs in a role, "query" or "document"; returns float32 (n, dim) with unit rows."""
MAX_ROW_BYTES = 4 << 30
"""Largest file of rows that is read; it is read as a whole."""
TOP = 5
"""Number of best candidates that a result lists per query."""


@dataclass(frozen=True)
class RankedPool:
    """A query with the candidates that are ranked for it."""

    query: Input
    candidates: list[Input]
    """Distinct inputs, at least one; candidate 0 is the right one."""


@dataclass
class TaskResult:
    """The ranks that one task measured; its lists have one entry per query, in the rows' order."""

    task: str
    ranks: list[int] = field(default_factory=list)
    """Number of wrong candidates that score at least as high as the right one; 0 is a hit."""
    pool_sizes: list[int] = field(default_factory=list)
    """Number of candidates."""
    top: list[list[int]] = field(default_factory=list)
    """Indices of the best candidates, up to five, best first."""

    @property
    def hit_at_1(self) -> float:
        """Share of queries whose right candidate came first."""
        return float(np.mean([rank == 0 for rank in self.ranks]))

    @property
    def chance(self) -> float:
        """hit@1 of a random order."""
        return float(np.mean([1 / size for size in self.pool_sizes]))


def tasks(root: Path, split: str = "eval") -> list[str]:
    """Returns the names of the tasks in `ROOT/SPLIT/`; raises `StorageError` if there are none."""
    names = sorted(path.stem for path in (root / split).glob("*.jsonl"))
    if not names:
        raise StorageError(
            f"{root / split}: holds no TASK.jsonl; give the root of an MMEB-style data set"
        )
    return names


def read_rows(root: Path, task: str, split: str = "eval") -> list[RankedPool]:
    """Reads `ROOT/SPLIT/TASK.jsonl`.

    Raises:
        StorageError: the file cannot be read.
        InputError: a row cannot be used, or there is none; the message names file and line.
    """
    path = root / split / f"{task}.jsonl"
    try:
        # Not `splitlines`: JSON strings may contain U+2028, which it splits at.
        lines = read_regular(path, MAX_ROW_BYTES).decode("utf-8-sig").split("\n")
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 ({error}); copy the file again") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            # KeyError and TypeError: the line may be any JSON, such as a number.
            row = _parse_row(root, line)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: not an MMEB evaluation row ({shown(repr(error))}); "
                "correct the line"
            ) from None
        if not row.candidates:
            raise InputError(
                f"{path}, line {number}: has no candidates; candidate 0 must be the right one"
            )
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no rows; write it again or remove it")
    return rows


def _parse_row(root: Path, line: str) -> RankedPool:
    """Returns a row; raises `ValueError`, `KeyError` or `TypeError` if the line is not one."""
    raw = parse_json(line)
    query = _input(root, raw["qry_inst"], raw["qry_text"], raw["qry_img_path"])
    # a text is a sequence as well: its characters would be candidates
    if not isinstance(raw["tgt_text"], list) or not isinstance(raw["tgt_img_path"], list):
        raise TypeError("tgt_text and tgt_img_path must be lists")
    pool = zip(raw["tgt_text"], raw["tgt_img_path"], strict=True)
    # MMEB repeats candidates; a repeated right one would otherwise compete with itself.
    candidates = distinct_inputs(_input(root, raw["tgt_inst"], text, path) for text, path in pool)
    return RankedPool(query, candidates)


def _input(root: Path, instruction: str | None, text: str | None, path: str | None) -> Input:
    # Null means that there is none; any other type is an error of the file.
    for value in (instruction, text, path):
        if not isinstance(value, str | None):
            raise TypeError(f"{shown(repr(value))} is not a string")
    picture = str(place_below(root, path)) if path else None
    return Input(clean(text or ""), picture, clean(instruction or ""))


class Vectors:
    """Vectors by input; each distinct input of a role is embedded once.

    `len` is the number of inputs that were embedded.

    Args:
        embed: the encoder, called once per role.
        queries: inputs to embed as queries; repetitions are fine.
        documents: inputs to embed as documents; repetitions are fine.
    """

    def __init__(self, embed: Embed, queries: list[Input], documents: list[Input]) -> None:
        self._rows: dict[str, dict[InputKey, Floats]] = {}
        # By role, since the same input has one vector as a query and another as a document.
        for role, inputs in (("query", queries), ("document", documents)):
            items = distinct_inputs(inputs)
            vectors = embed(items, role)
            self._rows[role] = {
                input_key(item): vector for item, vector in zip(items, vectors, strict=True)
            }

    def query(self, item: Input) -> Floats:
        """Returns the vector of a query, float32 (dim,); raises `KeyError` if it is unknown."""
        return self._rows["query"][input_key(item)]

    def documents(self, items: Iterable[Input]) -> Floats:
        """Returns vectors of documents, float32 (n, dim); raises `KeyError` if one is unknown."""
        return np.stack([self._rows["document"][input_key(item)] for item in items])

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())


def evaluate(rows_by_task: dict[str, list[RankedPool]], vectors: Vectors) -> list[TaskResult]:
    """Ranks every pool by cosine. Ties go against the right candidate; `ranking` says why.

    Args:
        rows_by_task: rows as `read_rows` returns them, by task.
        vectors: vectors of all their queries and candidates, see `embed_rows`.

    Returns:
        One result per task, in the order of `rows_by_task`.
    """
    results = []
    for task, rows in rows_by_task.items():
        result = TaskResult(task)
        for row in rows:
            # float32 and unrounded, see `ranking`; unit rows, so the product is the cosine.
            scores_N = vectors.documents(row.candidates) @ vectors.query(row.query)
            # Falling from candidate 0, which is the right one and must come last among equals.
            relevance_N = -np.arange(len(scores_N))
            order_N = best_first(scores_N, relevance_N)
            result.ranks.append(int(np.flatnonzero(order_N == 0)[0]))
            result.pool_sizes.append(len(scores_N))
            result.top.append(order_N[:TOP].tolist())
        results.append(result)
    return results


def embed_rows(embed: Embed, rows_by_task: dict[str, list[RankedPool]]) -> Vectors:
    """Embeds all queries and candidates of the rows, of all tasks together."""
    # Together, because tasks of one data set share pictures and answers.
    rows = [row for task_rows in rows_by_task.values() for row in task_rows]
    candidates = [item for row in rows for item in row.candidates]
    return Vectors(embed, [row.query for row in rows], candidates)
