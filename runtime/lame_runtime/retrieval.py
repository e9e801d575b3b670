"""Retrieval quality of an encoder on MMEB-style evaluation rows, without PyTorch.

The same rows, pools and metric serve a PyTorch checkpoint (`lame-train evaluate`), an exported bundle, and a
device on which only this package is installed:

    python -m lame_runtime.retrieval BUNDLE DATA --graph int8 --out scores.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.atomic import atomic_text
from lame_runtime.cli import run_command
from lame_runtime.contract.prompts import Input, clean, source_name
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError

Embed = Callable[[list[Input], str], npt.NDArray[np.float32]]
"""Inputs and their role → float32 (n, dim), unit rows."""
Key = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One query with its pool, no candidate twice; candidate 0 is the right one."""

    query: Input
    candidates: list[Input]


@dataclass
class TaskResult:
    """What one task measured; ranks are 0 where the right candidate came first."""

    task: str
    ranks: list[int] = field(default_factory=list)
    pools: list[int] = field(default_factory=list)
    top: list[list[int]] = field(default_factory=list)
    """Per query the indices of its best five candidates, best first."""

    @property
    def hit_at_1(self) -> float:
        """Share of queries whose right candidate came first."""
        return float(np.mean([rank == 0 for rank in self.ranks]))

    @property
    def chance(self) -> float:
        """hit@1 of a random order."""
        return float(np.mean([1 / pool for pool in self.pools]))


def tasks(root: Path, split: str = "eval") -> list[str]:
    """Names of the tasks in `ROOT/SPLIT/`; raises `InputError` where there are none."""
    found = sorted(path.stem for path in (root / split).glob("*.jsonl"))
    if not found:
        raise InputError(f"{root / split}: holds no TASK.jsonl; give the root of an MMEB-style data set")
    return found


def read_rows(root: Path, task: str, split: str = "eval") -> list[Row]:
    """Reads `ROOT/SPLIT/TASK.jsonl`; raises `InputError` naming the file and line that cannot be read."""
    path = root / split / f"{task}.jsonl"
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON strings may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); check the path") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            query = _input(root, raw["qry_inst"], raw["qry_text"], raw["qry_img_path"])
            pool = zip(raw["tgt_text"], raw["tgt_img_path"], strict=True)
            candidates = distinct(_input(root, raw["tgt_inst"], text, image) for text, image in pool)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}: not an MMEB evaluation row ({error!r})") from None
        if not candidates:
            raise InputError(f"{path}, line {number}: has no candidates; candidate 0 must be the right one")
        rows.append(Row(query, candidates))
    if not rows:
        raise InputError(f"{path}: holds no rows; write it again or remove it")
    return rows


def _input(root: Path, instruction: str | None, text: str | None, image: str | None) -> Input:
    for value in (instruction, text, image):
        if not isinstance(value, str | None):
            raise TypeError(f"{value!r} is not a string")
    return Input(clean(text or ""), str(root / image) if image else None, clean(instruction or ""))


def key(item: Input) -> Key:
    """What makes two inputs of a data set the same."""
    return (
        item.instruction or "",
        *(f"{type(part).__name__} {part if isinstance(part, str) else source_name(part)}" for part in item.parts),
    )


def distinct(items: Iterable[Input]) -> list[Input]:
    """The inputs without repetitions, in order of first occurrence."""
    return list({key(item): item for item in items}.values())


class Vectors:
    """Vectors by input, each distinct input embedded once.

    Args:
        embed: the encoder.
        queries: inputs embedded in the query role.
        documents: inputs embedded in the document role.
    """

    def __init__(self, embed: Embed, queries: list[Input], documents: list[Input]) -> None:
        self._rows: dict[str, dict[Key, npt.NDArray[np.float32]]] = {}
        for role, items in (("query", distinct(queries)), ("document", distinct(documents))):
            vectors = embed(items, role)
            self._rows[role] = {key(item): vector for item, vector in zip(items, vectors, strict=True)}

    def query(self, item: Input) -> npt.NDArray[np.float32]:
        """Vector of a query, float32 (dim,)."""
        return self._rows["query"][key(item)]

    def documents(self, items: Iterable[Input]) -> npt.NDArray[np.float32]:
        """Vectors of documents, float32 (n, dim)."""
        return np.stack([self._rows["document"][key(item)] for item in items])

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())


def evaluate(rows_by_task: dict[str, list[Row]], vectors: Vectors) -> list[TaskResult]:
    """Ranks every pool by cosine. Ties go against the right candidate, so that a constant encoder scores nothing."""
    results = []
    for task, rows in rows_by_task.items():
        result = TaskResult(task)
        for row in rows:
            scores = vectors.documents(row.candidates) @ vectors.query(row.query)
            result.ranks.append(int((scores[1:] >= scores[0]).sum()))
            result.pools.append(len(scores))
            # the last index first among equals, for the same reason
            result.top.append([int(len(scores) - 1 - i) for i in np.argsort(-scores[::-1], kind="stable")[:5]])
        results.append(result)
    return results


def embed_rows(embed: Embed, rows_by_task: dict[str, list[Row]]) -> Vectors:
    """Embeds everything the rows mention."""
    rows = [row for each in rows_by_task.values() for row in each]
    return Vectors(embed, [row.query for row in rows], [item for row in rows for item in row.candidates])


def main(arguments: list[str] | None = None) -> int:
    """Embeds and searches every task of a data set with one graph; writes scores, timing and the modules it ran with."""
    parser = argparse.ArgumentParser(prog="python -m lame_runtime.retrieval", description=main.__doc__)
    parser.add_argument("bundle")
    parser.add_argument("data", type=Path)
    parser.add_argument("--graph")
    parser.add_argument("--split", default="eval")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(run=_search)
    return run_command(parser, arguments, "nothing was written")


def _search(options: argparse.Namespace) -> int:
    rows = {task: read_rows(options.data, task, options.split) for task in tasks(options.data, options.split)}
    with Encoder.load(options.bundle, graph=options.graph) as encoder:
        began = time.perf_counter()
        vectors = embed_rows(lambda items, role: encoder.encode(items, role=role, batch_size=options.batch_size), rows)
        seconds = time.perf_counter() - began
        results = evaluate(rows, vectors)
    report: dict[str, Any] = {
        "graph": encoder.graph,
        "backend": encoder.backend.name,
        "inputs": len(vectors),
        "ms_per_input": 1000 * seconds / len(vectors),
        "tasks": {
            r.task: {"hit@1": r.hit_at_1, "chance": r.chance, "queries": len(r.ranks), "ranks": r.ranks, "top": r.top} for r in results
        },
        "modules": sorted({name.split(".")[0] for name in sys.modules}),
    }
    atomic_text(options.out, json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
