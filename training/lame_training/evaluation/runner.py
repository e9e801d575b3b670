"""Runs a suite on one model, task by task; a run can be stopped and started again at any point.

Vectors are cached and results are written as they arrive (see `vector_cache` and `result_files`),
so a second run goes on where the first one stopped. A task that cannot be read does not stop the
others; it is reported as failed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError, StorageError
from lame_runtime.progress import progress_bar

from lame_training.evaluation.embedding.embedder import Embedder, EmbeddingCounts
from lame_training.evaluation.embedding.identity import ContentHasher
from lame_training.evaluation.embedding.vector_cache import EmbeddingCache
from lame_training.evaluation.result_files import ResultFolder, TaskOutcome, data_digest
from lame_training.evaluation.scoring import score
from lame_training.evaluation.suites.folders import make_folder
from lame_training.evaluation.suites.picture_store import PictureStore
from lame_training.evaluation.suites.suite import Suite, Task, check_task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How a suite is run, and where its files go."""

    cache: Path
    """Folder of embeddings, and of pictures that the data keep inside parquet files or videos."""
    keep_embeddings: bool = True
    """Whether embeddings are written to `cache`, or kept in memory only."""
    output: Path | None = None
    """Folder of results; None writes none."""
    tasks: Sequence[str] | None = None
    """Names of the tasks to run; None runs all. Results that `output` holds for other tasks with
    the same model remain part of the run."""
    batch_size: int = 32
    """Inputs per run of the graph."""
    max_pixels: int | None = None
    """Most pixels of a picture or frame; None takes the contract's limit."""


@dataclass
class SuiteRun:
    """The outcomes of a suite with one model."""

    suite: Suite
    identity: str
    """Hash of the model, see `identity.model_identity`."""
    outcomes: dict[str, TaskOutcome] = field(default_factory=dict)
    """Outcome by task, those of earlier runs included."""
    missing: list[str] = field(default_factory=list)
    """Tasks without files, or not selected and without an earlier result."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reason by task that could not be evaluated."""
    counts: EmbeddingCounts = field(default_factory=EmbeddingCounts)
    """Counts of the inputs of all tasks that were run."""
    reused: list[str] = field(default_factory=list)
    """Tasks whose earlier result was still valid."""


def run_suite(
    suite: Suite, data: Path, encoder: Encoder, identity: str, options: EvaluationOptions
) -> SuiteRun:
    """Runs those tasks of a suite that have files below `data`.

    Args:
        suite: the benchmark.
        data: root of its data.
        encoder: the model.
        identity: hash of the model, see `identity.model_identity`.
        options: how to run it, and where files go.

    Raises:
        UsageError: `options` names an unknown task or an impossible batch size, or `output` holds
            results under another convention.
        StorageError: `data` holds no files of the tasks, or `output` or `cache` cannot be used.
        BackendError: the model failed.
    """
    names = None if options.tasks is None else list(options.tasks)
    selected = {spec.name for spec in suite.select(names)}
    present = {spec.name for spec in suite.specs if suite.present(spec, data)}
    # Checked before any folder is created: a mistyped `data` should leave nothing behind.
    if not present & selected:
        scope = "these tasks" if names else f"suite {suite.name}"
        raise StorageError(f"{data}: holds no data of {scope}; expected below it: {suite.layout}")
    results = ResultFolder(suite, identity, options.max_pixels, options.output)
    results.check_convention()
    # Before anything is embedded: hours of work must not end at a folder that cannot be created.
    if options.output is not None:
        make_folder(options.output, "output")
    make_folder(options.cache, "cache")
    store = PictureStore(options.cache / "pictures")
    embedder = _open_embedder(encoder, identity, options)
    run = SuiteRun(suite, identity)
    for spec in suite.specs:
        earlier = results.read(spec)
        if spec.name in selected and spec.name in present:
            try:
                task = suite.read(spec, data, store)
                _run_task(run, task, embedder, earlier, results)
            except (InputError, StorageError) as error:
                # Other errors are not about this task's data and would end every task alike.
                run.failed[spec.name] = str(error)
        elif earlier is not None:
            run.outcomes[spec.name] = TaskOutcome(spec, earlier)
        else:
            run.missing.append(spec.name)
    return run


def _open_embedder(encoder: Encoder, identity: str, options: EvaluationOptions) -> Embedder:
    # 16 of the 64 hex digits keep paths short, and 64 bits are enough to tell models apart.
    folder = options.cache / "embeddings" / identity[:16] if options.keep_embeddings else None
    cache = EmbeddingCache(folder, encoder.preparer.contract.dim)
    for path in cache.unreadable:
        logger.warning("%s: unreadable; its inputs are embedded again", path)
    return Embedder(encoder, cache, ContentHasher(), options.batch_size, options.max_pixels)


def _run_task(
    run: SuiteRun,
    task: Task,
    embedder: Embedder,
    earlier: dict[str, Any] | None,
    results: ResultFolder,
) -> None:
    """Embeds, scores and writes one task, unless `earlier` was measured on the same data."""
    check_task(task)
    spec = task.spec
    queries = embedder.key_inputs([query.input for query in task.queries], "query")
    documents = embedder.key_inputs(list(task.documents.values()), "document")
    # Hashed before embedding, which adds the inputs that fail to `bad`.
    data = data_digest(task, queries, documents)
    if earlier is not None and earlier["run"]["data"] == data:
        run.outcomes[spec.name] = TaskOutcome(spec, earlier)
        run.reused.append(spec.name)
        return
    counts = EmbeddingCounts()
    # Keys contain the role, so an input that is query and document is embedded twice.
    distinct = len(set(queries.keys)) + len(set(documents.keys))
    with progress_bar(total=distinct, desc=spec.name, unit="inputs", leave=False) as progress:
        embedder.embed(documents, counts, progress)
        embedder.embed(queries, counts, progress)
    names = list(task.documents)
    bad_documents = {names[index]: reason for index, reason in documents.bad.items()}
    usable = task.without(queries.bad, bad_documents)
    # Again: embedding may have shown that nothing usable is left.
    check_task(usable)
    key_of_document = dict(zip(names, documents.keys, strict=True))
    # By identity, because queries are not hashable and a data set may repeat one.
    usable_ids = {id(query) for query in usable.queries}
    query_keys = [
        key
        for key, query in zip(queries.keys, task.queries, strict=True)
        if id(query) in usable_ids
    ]
    scores = score(
        usable,
        embedder.cache.get(query_keys),
        embedder.cache.get([key_of_document[name] for name in usable.documents]),
    )
    result = results.make_result(usable, scores, counts, data)
    results.write(spec, result)
    run.outcomes[spec.name] = TaskOutcome(spec, result)
    for name, value in asdict(counts).items():
        setattr(run.counts, name, getattr(run.counts, name) + value)
