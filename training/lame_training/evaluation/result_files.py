"""Reads and writes the result files of a suite run, and decides which finished tasks still count.

    OUTPUT/GROUP/TASK_score.json    a task's figures in MMEB's form, and under "run" what they were
                                    measured on
    OUTPUT/report.json              all tasks in the leaderboard's form (see `leaderboard`)

A result counts if it was measured on the same model, data and settings; then the task is not run
again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.errors import StorageError, UsageError, shown
from lame_runtime.files.atomic import atomic_text
from lame_runtime.files.json_file import read_json

from lame_training.evaluation.embedding.embedder import EmbeddingCounts, KeyedInputs
from lame_training.evaluation.embedding.identity import digest
from lame_training.evaluation.scoring import TaskScores
from lame_training.evaluation.suites.folders import make_folder
from lame_training.evaluation.suites.suite import Suite, Task, TaskSpec

# To be raised with any change of code that changes figures, since results of before and after must
# not be averaged.
RESULT_VERSION = 1
"""Version of the form and meaning of results; results of another version are measured again."""
SHOWN_REASONS = 5
"""Number of reasons that a result quotes for what was left out."""


@dataclass(frozen=True)
class TaskOutcome:
    """A task with its result file's content."""

    spec: TaskSpec
    result: dict[str, Any]

    @property
    def figures(self) -> dict[str, float]:
        """The task's reported figure, or those of its sub-tasks, by counted name."""
        # Only tasks with sub-tasks store `parts`.
        parts = self.result["run"]["parts"] or {self.spec.name: self.result}
        return {name: metrics[self.spec.metric] for name, metrics in parts.items()}


@dataclass(frozen=True)
class ResultFolder:
    """The results of one suite with one model, on disk if there is a folder.

    Args:
        suite: the benchmark.
        identity: hash of the model, see `identity.model_identity`.
        max_pixels: the pixel limit of the run; None for the contract's.
        folder: folder of results; None keeps nothing.
    """

    suite: Suite
    identity: str
    max_pixels: int | None
    folder: Path | None

    def check_convention(self) -> None:
        """Raises if the folder's report is of another suite or convention.

        Raises:
            UsageError: the report is of another suite, or of the same under another convention.
            StorageError: the folder holds a `report.json` of something else.
        """
        if self.folder is None:
            return
        path = self.folder / "report.json"
        try:
            metadata = read_json(path)["metadata"]
            before = (metadata["suite"], metadata.get(self.suite.convention_key, ""))
            if not all(isinstance(text, str) for text in before):
                raise TypeError("suite and convention are texts")
        except FileNotFoundError:
            # A new folder, or a run that was stopped before its report. `read` checks the
            # convention of each result again.
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise StorageError(
                f"{path}: is not a report of lame-train evaluate; choose another `output`"
            ) from None
        now = (self.suite.name, self.suite.convention)
        if before != now:
            raise UsageError(
                f"{self.folder}: holds results of {shown(' '.join(before).strip())}, which are "
                f"never put together with {' '.join(now).strip()}; choose another `output`"
            )

    def _path(self, spec: TaskSpec) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / spec.group / f"{spec.name}_score.json"

    def read(self, spec: TaskSpec) -> dict[str, Any] | None:
        """Returns an earlier result, or None if there is none that counts for this run."""
        path = self._path(spec)
        if path is None:
            return None
        try:
            result: dict[str, Any] = read_json(path)
            settings = result["run"]
            counts = (
                settings["version"] == RESULT_VERSION
                and settings["suite"] == self.suite.name
                and settings[self.suite.convention_key] == self.suite.convention
                and settings["model"] == self.identity
                and settings["max_pixels"] == self.max_pixels
                and _is_whole(result, spec)
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Unreadable counts as absent: the task is measured again and the file replaced.
            return None
        return result if counts else None

    def write(self, spec: TaskSpec, result: dict[str, Any]) -> None:
        """Writes a result, whole or not at all; raises `StorageError` if the disk refuses."""
        path = self._path(spec)
        if path is not None:
            make_folder(path.parent, "output")
            atomic_text(path, json.dumps(result, indent=2) + "\n")

    def make_result(
        self, task: Task, scores: TaskScores, counts: EmbeddingCounts, data: str
    ) -> dict[str, Any]:
        """Returns a task's result in the form of its file.

        Args:
            task: the task without what could not be embedded.
            scores: its figures.
            counts: counts of its inputs.
            data: hash of its data, see `data_digest`.
        """
        # MMEB's own keys come first. Everything that its files do not have is under "run", so that
        # scripts written for MMEB's files can read these as well.
        return {
            **scores.metrics,
            "num_pred": len(task.queries),
            "num_data": task.rows,
            "run": {
                "version": RESULT_VERSION,
                "suite": self.suite.name,
                self.suite.convention_key: self.suite.convention,
                "metric": task.spec.metric,
                "pool": task.spec.pool_scope,
                "parts": scores.parts if task.spec.parts else {},
                "chance": scores.chance,
                "documents": len(task.documents),
                "skipped_queries": _quote(task.skipped),
                "missing_documents": _quote(task.missing_documents),
                "cut_texts": counts.cut,
                "max_pixels": self.max_pixels,
                "model": self.identity,
                "data": data,
            },
        }


def _is_whole(result: dict[str, Any], spec: TaskSpec) -> bool:
    """Returns whether a result has everything that a report reads, in its type and range.

    Raises:
        KeyError, TypeError, AttributeError: a value is missing, or of a wrong type.
    """
    facts = result["run"]
    parts = facts["parts"]
    figures = [metrics[spec.metric] for metrics in parts.values()] if parts else []
    counts = [result["num_pred"], result["num_data"], facts["cut_texts"]]
    for left_out in (facts["skipped_queries"], facts["missing_documents"]):
        counts.append(left_out["count"])
        first = left_out["first"]
        if not isinstance(first, list) or not all(isinstance(reason, str) for reason in first):
            return False
        # a note quotes the first
        if left_out["count"] and not first:
            return False
    return (
        isinstance(facts["data"], str)
        and set(parts) <= set(spec.parts)
        and all(_is_count(count) for count in counts)
        and all(_is_share(value) for value in (result[spec.metric], facts["chance"], *figures))
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def data_digest(task: Task, queries: KeyedInputs, documents: KeyedInputs) -> str:
    """Returns a hash of everything except the model that a task's figures depend on.

    Args:
        task: the task as read.
        queries: the keys of its queries.
        documents: the keys of its documents.
    """
    # Relevance is sorted because the order of judgments in a file means nothing.
    query_facts = [
        [key, sorted(query.relevance.items()), query.pool, query.part]
        for key, query in zip(queries.keys, task.queries, strict=True)
    ]
    corpus = list(zip(task.documents, documents.keys, strict=True))
    # What was left out belongs to the data: repairing a picture must measure the task again.
    left_out = [
        task.rows,
        task.skipped,
        task.missing_documents,
        sorted(queries.bad.items()),
        sorted(documents.bad.items()),
    ]
    return digest(
        [RESULT_VERSION, task.spec.metric, task.spec.pool_scope, query_facts, corpus, left_out]
    )


def _quote(reasons: list[str]) -> dict[str, Any]:
    """Returns how many were left out, and the first few reasons."""
    return {"count": len(reasons), "first": reasons[:SHOWN_REASONS]}
