"""Turns suite runs into reports: the leaderboard's JSON, a table with means, and a comparison.

The JSON has the form of `experiments/report_score_v2.py` of VLM2Vec: `metadata`, and `metrics` by
part and task, in which a task without a result is the text "FILE_N/A". Under `summary` stands what
that script prints: means over the tasks that have a result, always with the number of tasks, and
the names of tasks that are missing or failed. The overall figure is the mean of tasks, not of
parts.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError

from lame_training.evaluation.result_files import TaskOutcome
from lame_training.evaluation.runner import SuiteRun

ABSENT = "FILE_N/A"
"""The leaderboard's mark for a task without a result."""
SHOWN_TASKS = 5
"""Number of missing tasks that a note names."""


def mean_of(figures: dict[str, float], expected: list[str]) -> dict[str, Any]:
    """Returns the mean over the expected tasks that have a figure, and how many those are.

    Args:
        figures: figure by task.
        expected: the tasks that the mean should be taken over.
    """
    values = [figures[name] for name in expected if name in figures]
    # Missing tasks are left out rather than counted as 0, which is why the numbers of tasks belong
    # to the mean. None rather than NaN, which is not valid JSON.
    return {
        "score": float(np.mean(values)) if values else None,
        "tasks": len(values),
        "of": len(expected),
    }


def summarize(run: SuiteRun) -> dict[str, Any]:
    """Returns the means over all tasks and over each part, and what is not in them."""
    figures = {
        name: value for outcome in run.outcomes.values() for name, value in outcome.figures.items()
    }
    # Sub-tasks count like tasks: a task with four disciplines has four times the weight of another.
    counted_by_group: dict[str, list[str]] = {}
    for spec in run.suite.specs:
        counted_by_group.setdefault(spec.group, []).extend(spec.counted)
    all_counted = [name for spec in run.suite.specs for name in spec.counted]
    facts = [outcome.result["run"] for outcome in run.outcomes.values()]
    return {
        "overall": mean_of(figures, all_counted),
        "groups": {group: mean_of(figures, names) for group, names in counted_by_group.items()},
        "tasks": figures,
        "missing": run.missing,
        "failed": run.failed,
        "skipped_queries": sum(fact["skipped_queries"]["count"] for fact in facts),
        "missing_documents": sum(fact["missing_documents"]["count"] for fact in facts),
        "cut_texts": sum(fact["cut_texts"] for fact in facts),
    }


def leaderboard_report(run: SuiteRun, encoder: Encoder, name: str) -> dict[str, Any]:
    """Returns the report of a run, in the leaderboard's form.

    Args:
        run: the outcomes.
        encoder: the model that was evaluated.
        name: the model's name on the leaderboard.
    """
    contract = encoder.preparer.contract
    # As in that script's report, every task of the suite has an entry.
    metrics: dict[str, dict[str, Any]] = {}
    for spec in run.suite.specs:
        outcome = run.outcomes.get(spec.name)
        metrics.setdefault(spec.group, {})[spec.name] = (
            ABSENT if outcome is None else outcome.result
        )
    convention = {run.suite.convention_key: run.suite.convention} if run.suite.convention else {}
    # Keys up to `report_generated_date` are the leaderboard's. Its `model_size`, `url` and
    # `model_release_date` are not known here; whoever submits the report adds them.
    return {
        "metadata": {
            "model_name": name,
            "model_backbone": contract.family,
            "embedding_dimension": contract.dim,
            "max_length_tokens": contract.tokens.max_length,
            "data_source": "Self-Reported",
            "report_generated_date": datetime.datetime.now().isoformat(timespec="seconds"),
            "suite": run.suite.name,
            **convention,
            "graph": encoder.graph,
            "backend": encoder.backend.name,
            "model_sha256": run.identity,
        },
        "metrics": metrics,
        "summary": summarize(run),
    }


def table(run: SuiteRun) -> list[str]:
    """Returns lines for a terminal: a header, and a row per figure of the tasks with a result."""
    metrics = {outcome.spec.metric for outcome in run.outcomes.values()}
    # A metric that all tasks share is the header of the score; otherwise it gets a column.
    shared_metric = metrics.pop() if len(metrics) == 1 else ""
    names = [name for outcome in run.outcomes.values() for name in outcome.figures]
    width = max([12, *(len(name) for name in names)])
    score_header = f"{shared_metric:>7}" if shared_metric else f"{'metric':16}{'score':>7}"
    lines = [f"{'task':{width}} {score_header} {'chance':>7} {'queries':>8}"]
    for outcome in run.outcomes.values():
        metric = "" if shared_metric else f"{outcome.spec.metric:16}"
        facts = _task_facts(outcome)
        for name, value in outcome.figures.items():
            lines.append(f"{name:{width}} {metric}{value:7.3f} {facts}".rstrip())
    return lines


def _task_facts(outcome: TaskOutcome) -> str:
    """Returns the columns that concern the whole task: chance, queries, and skipped queries."""
    facts = outcome.result["run"]
    # The chance is that of hit@1, so it says nothing about another metric.
    chance = f"{facts['chance']:7.3f}" if outcome.spec.metric == "hit@1" else f"{'':7}"
    # Sub-tasks share the task's queries; its number would be wrong in each of their rows.
    queries = f"{outcome.result['num_pred']:8}" if len(outcome.figures) == 1 else f"{'':8}"
    count = facts["skipped_queries"]["count"]
    skipped = f"  ({count} skipped)" if count else ""
    return f"{chance} {queries}{skipped}"


def means(run: SuiteRun) -> list[str]:
    """Returns lines for below the table: the mean of each part and of all tasks.

    Each line says how many tasks its mean is over. A suite with a single part has no such lines.
    """
    summary = summarize(run)
    groups = summary["groups"]
    if len(groups) < 2:
        return []
    lines = []
    for name, mean in {**groups, "overall": summary["overall"]}.items():
        if mean["score"] is None:
            lines.append(f"{name}: no figure for any of {mean['of']} tasks")
        else:
            score, tasks, of = mean["score"], mean["tasks"], mean["of"]
            lines.append(f"{name}: {score:.3f}, the mean of {tasks} of {of} tasks")
    return lines


def notes(run: SuiteRun) -> list[str]:
    """Returns lines about the convention, and about what was left out, cut or reused."""
    summary = summarize(run)
    lines = []
    # The digits' split is stored as a convention, but users name it themselves: no note needed.
    if run.suite.convention and run.suite.convention_key != "split":
        lines.append(f"{run.suite.convention_key.replace('_', ' ')}: {run.suite.convention}")
    for outcome in run.outcomes.values():
        for kind in ("skipped_queries", "missing_documents"):
            left_out = outcome.result["run"][kind]
            if left_out["count"]:
                what = f"{left_out['count']} {kind.replace('_', ' ')}"
                lines.append(f"{outcome.spec.name}: {what}, such as {left_out['first'][0]}")
    if summary["cut_texts"]:
        lines.append(f"{summary['cut_texts']} texts were too long and were cut")
    if run.missing:
        more = ", …" if len(run.missing) > SHOWN_TASKS else ""
        names = ", ".join(run.missing[:SHOWN_TASKS]) + more
        lines.append(f"{len(run.missing)} tasks without data or not selected: {names}")
    if run.reused:
        lines.append(f"{len(run.reused)} tasks were finished before and not run again")
    return lines


def compare(first: SuiteRun, second: SuiteRun) -> dict[str, Any]:
    """Returns the figures of two runs and their differences, for tasks that both have.

    Raises:
        UsageError: the runs are of different suites or conventions.
    """
    kinds = [(run.suite.name, run.suite.convention) for run in (first, second)]
    if kinds[0] != kinds[1]:
        names = [" ".join(kind).strip() for kind in kinds]
        raise UsageError(
            f"results of {names[0]} and of {names[1]} are never compared; "
            "run both models on the same suite"
        )
    rows: dict[str, dict[str, Any]] = {}
    # Over common tasks only: a mean over different tasks would compare their difficulty.
    for name, outcome in first.outcomes.items():
        if name not in second.outcomes:
            continue
        second_figures = second.outcomes[name].figures
        for part, value in outcome.figures.items():
            if part in second_figures:
                rows[part] = {
                    "metric": outcome.spec.metric,
                    "first": value,
                    "second": second_figures[part],
                    "difference": value - second_figures[part],
                }
    mean = None
    # NumPy warns about the mean of nothing.
    if rows:
        columns = ("first", "second", "difference")
        mean = {key: float(np.mean([row[key] for row in rows.values()])) for key in columns}
    return {"tasks": rows, "mean": mean, "compared": len(rows)}


def comparison_table(compared: dict[str, Any], names: tuple[str, str]) -> list[str]:
    """Returns lines for a terminal: a row per task with both figures, and a row of means.

    Args:
        compared: as `compare` returns it.
        names: headers of the two columns of figures.
    """
    width = max([12, *(len(name) for name in compared["tasks"])])
    first_width, second_width = (max(9, len(name)) for name in names)
    header = f"{names[0]:>{first_width}} {names[1]:>{second_width}} {'difference':>10}"
    lines = [f"{'task':{width}} {'metric':15} {header}"]
    rows = [(name, row["metric"], row) for name, row in compared["tasks"].items()]
    if compared["mean"] is not None:
        rows.append((f"mean of {compared['compared']}", "", compared["mean"]))
    for name, metric, row in rows:
        # Four decimals, because what an export costs is often less than 0.001.
        first, second = f"{row['first']:{first_width}.4f}", f"{row['second']:{second_width}.4f}"
        lines.append(f"{name:{width}} {metric:15} {first} {second} {row['difference']:+10.4f}")
    return lines
