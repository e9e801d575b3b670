"""Runs a suite on one model, task by task, and can be stopped and started again at any point.

    OUT/GROUP/TASK_score.json    a task's figures in MMEB's form, and under "run" what they were measured on
    OUT/report.json              the whole in the leaderboard's form (see `report`)

A task whose result says the same model, data and settings is not run again. A task that cannot be read does not stop the
others: it is reported as failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lame_runtime.atomic import atomic_text
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError
from tqdm import tqdm

from lame_training.suites.base import Suite, Task, TaskSpec, check_task
from lame_training.suites.cache import EmbeddingCache
from lame_training.suites.embedding import Counts, Embedder, Keyed
from lame_training.suites.folders import make_folder
from lame_training.suites.identity import ContentHasher, digest
from lame_training.suites.pictures import PictureStore
from lame_training.suites.scoring import score

RESULT_VERSION = 1
SHOWN_REASONS = 5


@dataclass(frozen=True)
class TaskOutcome:
    """One task's result file as read or written."""

    spec: TaskSpec
    result: dict[str, Any]

    @property
    def figures(self) -> dict[str, float]:
        """The figure that counts, by counted name."""
        parts = self.result["run"]["parts"] or {self.spec.name: self.result}
        return {name: metrics[self.spec.metric] for name, metrics in parts.items()}


@dataclass
class SuiteRun:
    """What a run found."""

    suite: Suite
    identity: str
    outcomes: dict[str, TaskOutcome] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Tasks whose files are not there, or that were not asked for and have no result."""
    failed: dict[str, str] = field(default_factory=dict)
    """The reason by task."""
    counts: Counts = field(default_factory=Counts)
    reused: list[str] = field(default_factory=list)
    """Tasks that were finished before."""


def run_suite(
    suite: Suite,
    data: Path,
    encoder: Encoder,
    identity: str,
    *,
    cache: Path,
    keep_embeddings: bool = True,
    out: Path | None = None,
    names: Sequence[str] | None = None,
    batch_size: int = 32,
    max_pixels: int | None = None,
) -> SuiteRun:
    """Runs the tasks of a suite that lie below `data`.

    Args:
        suite: the benchmark.
        data: its root.
        encoder: the model.
        identity: its hash, see `identity.model_identity`.
        cache: folder of embeddings and of pictures that lie inside data files.
        keep_embeddings: write them to `cache`.
        out: folder of results; None writes none.
        names: tasks to run; None runs all. Results of others that `out` holds for this model are kept.
        batch_size: inputs per run of the graph.
        max_pixels: of a picture or frame, instead of the contract's.

    Raises:
        InputError: an unknown task, no task's data below `data`, or results of another convention in `out`.
        BackendError: the model failed.
    """
    chosen = {spec.name for spec in suite.chosen(list(names) if names is not None else None)}
    there = {spec.name for spec in suite.specs if suite.present(spec, data)}
    if not there & chosen:
        raise InputError(f"{data}: holds no data of {'these tasks' if names else 'suite ' + suite.name}; expected below it: {suite.layout}")
    check_convention(suite, out)
    for folder, flag in ((out, "--out"), (cache, "--cache")):
        if folder is not None:
            make_folder(folder, flag)
    store = PictureStore(cache / "pictures")
    shards = EmbeddingCache(cache / "embeddings" / identity[:16] if keep_embeddings else None)
    for path in shards.unreadable:
        print(f"note: {path}: unreadable; what it held is embedded again", file=sys.stderr)
    run = SuiteRun(suite, identity)
    embedder = Embedder(encoder, shards, ContentHasher(), batch_size, max_pixels)
    for spec in suite.specs:
        target = out / spec.group / f"{spec.name}_score.json" if out is not None else None
        old = _old_result(target, run, max_pixels)
        if spec.name not in chosen or spec.name not in there:
            if old is not None:
                run.outcomes[spec.name] = TaskOutcome(spec, old)
            else:
                run.missing.append(spec.name)
            continue
        try:
            _run_task(run, spec, suite.read(spec, data, store), embedder, old, target)
        except InputError as error:
            run.failed[spec.name] = str(error)
    return run


def check_convention(suite: Suite, out: Path | None) -> None:
    """Raises `InputError` where `out` holds another suite's results, or the same suite's under another convention."""
    if out is None:
        return
    path = out / "report.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        before = (found["suite"], found.get(suite.convention_key, ""))
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is not a report of lame-train evaluate; choose another --out") from None
    if before != (suite.name, suite.convention):
        raise InputError(
            f"{out}: holds results of {' '.join(before).strip()}, which are never put together with "
            f"{suite.name} {suite.convention}".rstrip()
            + "; choose another --out"
        )


def _run_task(run: SuiteRun, spec: TaskSpec, task: Task, embedder: Embedder, old: dict[str, Any] | None, target: Path | None) -> None:
    """Embeds, scores and writes one task, unless `old` was measured on the same."""
    check_task(task)
    queries = embedder.keyed([query.input for query in task.queries], "query")
    documents = embedder.keyed(list(task.documents.values()), "document")
    data = _data_digest(task, queries, documents)
    if old is not None and old["run"]["data"] == data:
        run.outcomes[spec.name] = TaskOutcome(spec, old)
        run.reused.append(spec.name)
        return
    counts = Counts()
    distinct = len(set(queries.keys)) + len(set(documents.keys))
    with tqdm(total=distinct, desc=spec.name, unit="input", disable=None, leave=False) as progress:
        embedder.embed(documents, counts, progress)
        embedder.embed(queries, counts, progress)
    names = list(task.documents)
    rows = {name: documents.keys[index] for index, name in enumerate(names)}
    usable = task.without(queries.bad, {names[index]: reason for index, reason in documents.bad.items()})
    check_task(usable)
    kept = {id(query) for query in usable.queries}
    asked = [key for key, query in zip(queries.keys, task.queries, strict=True) if id(query) in kept]
    scored = score(usable, embedder.cache.get(asked), embedder.cache.get([rows[name] for name in usable.documents]))
    result = {
        **scored.metrics,
        "num_pred": len(usable.queries),
        "num_data": usable.rows,
        "run": {
            "version": RESULT_VERSION,
            "suite": run.suite.name,
            run.suite.convention_key: run.suite.convention,
            "metric": spec.metric,
            "pool": spec.pool,
            "parts": scored.parts if spec.parts else {},
            "chance": scored.chance,
            "documents": len(usable.documents),
            "skipped_queries": _listed(usable.skipped),
            "missing_documents": _listed(usable.missing_documents),
            "cut_texts": counts.cut,
            "max_pixels": embedder.max_pixels,
            "model": run.identity,
            "data": data,
        },
    }
    if target is not None:
        make_folder(target.parent, "--out")
        atomic_text(target, json.dumps(result, indent=2) + "\n")
    run.outcomes[spec.name] = TaskOutcome(spec, result)
    for name, value in asdict(counts).items():
        setattr(run.counts, name, getattr(run.counts, name) + value)


def _listed(reasons: list[str]) -> dict[str, Any]:
    """How many were left out, and the first few reasons."""
    return {"count": len(reasons), "first": reasons[:SHOWN_REASONS]}


def _data_digest(task: Task, queries: Keyed, documents: Keyed) -> str:
    """sha256 of all that a task's figures depend on beside the model."""
    asked = [[key, sorted(query.relevance.items()), query.pool, query.part] for key, query in zip(queries.keys, task.queries, strict=True)]
    corpus = list(zip(task.documents, documents.keys, strict=True))
    left_out = [task.rows, task.skipped, task.missing_documents, sorted(queries.bad.items()), sorted(documents.bad.items())]
    return digest([RESULT_VERSION, task.spec.metric, task.spec.pool, asked, corpus, left_out])


def _old_result(target: Path | None, run: SuiteRun, max_pixels: int | None) -> dict[str, Any] | None:
    """An earlier result of the same model, convention and budget, if there is one that can be read."""
    if target is None:
        return None
    try:
        found = json.loads(target.read_text(encoding="utf-8"))
        measured = [found["run"][key] for key in ("version", "suite", run.suite.convention_key, "model", "max_pixels")]
        return found if measured == [RESULT_VERSION, run.suite.name, run.suite.convention, run.identity, max_pixels] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
