"""A run as a report: the leaderboard's JSON, the means and what they are means of, a table, and two models compared.

The form is that of `experiments/report_score_v2.py` of VLM2Vec: `metadata`, and `metrics` by part and task, a task without a
result being the text "FILE_N/A". Under `summary` stands what that script prints: means over the tasks that have a
result, never without saying of how many, and the tasks that are missing or failed by name. The overall figure is the mean of
tasks, not of parts.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError

from lame_training.suites.run import SuiteRun

ABSENT = "FILE_N/A"


def mean_of(figures: dict[str, float], expected: list[str]) -> dict[str, Any]:
    """The mean over the expected tasks that have a figure, and how many those are."""
    found = [figures[name] for name in expected if name in figures]
    return {"score": float(np.mean(found)) if found else None, "tasks": len(found), "of": len(expected)}


def summarise(run: SuiteRun) -> dict[str, Any]:
    """Means over all tasks and over each part of the suite, and what is not in them."""
    figures = {name: value for outcome in run.outcomes.values() for name, value in outcome.figures.items()}
    counted = [name for spec in run.suite.specs for name in spec.counted]
    groups = {
        group: mean_of(figures, [name for spec in run.suite.specs if spec.group == group for name in spec.counted])
        for group in dict.fromkeys(spec.group for spec in run.suite.specs)
    }
    results = [outcome.result["run"] for outcome in run.outcomes.values()]
    return {
        "overall": mean_of(figures, counted),
        "groups": groups,
        "tasks": figures,
        "missing": run.missing,
        "failed": run.failed,
        "skipped_queries": sum(each["skipped_queries"]["count"] for each in results),
        "missing_documents": sum(each["missing_documents"]["count"] for each in results),
        "cut_texts": sum(each["cut_texts"] for each in results),
    }


def leaderboard_report(run: SuiteRun, encoder: Encoder, name: str) -> dict[str, Any]:
    """The report of a run.

    Args:
        run: what was found.
        encoder: the model it was found with.
        name: the model's name on the leaderboard.
    """
    contract = encoder.preparer.contract
    metrics: dict[str, dict[str, Any]] = {}
    for spec in run.suite.specs:
        outcome = run.outcomes.get(spec.name)
        metrics.setdefault(spec.group, {})[spec.name] = ABSENT if outcome is None else outcome.result
    return {
        "metadata": {
            "model_name": name,
            "model_backbone": contract.family,
            "embedding_dimension": contract.dim,
            "max_length_tokens": contract.tokens.max_length,
            "data_source": "Self-Reported",
            "report_generated_date": datetime.datetime.now().isoformat(timespec="seconds"),
            "suite": run.suite.name,
            **({run.suite.convention_key: run.suite.convention} if run.suite.convention else {}),
            "graph": encoder.graph,
            "backend": encoder.backend.name,
            "model_sha256": run.identity,
        },
        "metrics": metrics,
        "summary": summarise(run),
    }


def table(run: SuiteRun) -> list[str]:
    """Lines for a terminal: a row per task with a result, then the means and everything that is not in them."""
    metrics = {outcome.spec.metric for outcome in run.outcomes.values()}
    same = metrics.pop() if len(metrics) == 1 else ""
    width = max([12, *(len(name) for outcome in run.outcomes.values() for name in outcome.figures)])
    lines = [f"{'task':{width}} {'' if same else 'metric          '}{same or 'score':>7} {'chance':>7} {'queries':>8}"]
    for outcome in run.outcomes.values():
        facts = outcome.result["run"]
        chance = f"{facts['chance']:7.3f}" if outcome.spec.metric == "hit@1" else f"{'':7}"
        skipped = f"  ({facts['skipped_queries']['count']} skipped)" if facts["skipped_queries"]["count"] else ""
        for name, value in outcome.figures.items():
            queries = f"{outcome.result['num_pred']:8}" if len(outcome.figures) == 1 else f"{'':8}"
            row = f"{name:{width}} {'' if same else f'{outcome.spec.metric:16}'}{value:7.3f} {chance} {queries}{skipped}"
            lines.append(row.rstrip())
    return lines


def means(run: SuiteRun) -> list[str]:
    """Lines below the table: the mean of each part and of all tasks, and of how many; none where the suite has one part."""
    summary = summarise(run)
    found = {**summary["groups"], "overall": summary["overall"]} if len(summary["groups"]) > 1 else {}
    return [
        f"{name}: no figure for any of {mean['of']} tasks"
        if mean["score"] is None
        else f"{name}: {mean['score']:.3f}, the mean of {mean['tasks']} of {mean['of']} tasks"
        for name, mean in found.items()
    ]


def notes(run: SuiteRun) -> list[str]:
    """Lines about what was left out, and under which convention."""
    summary = summarise(run)
    lines = []
    if run.suite.convention and run.suite.convention_key != "split":
        lines.append(f"{run.suite.convention_key.replace('_', ' ')}: {run.suite.convention}")
    for outcome in run.outcomes.values():
        for kind in ("skipped_queries", "missing_documents"):
            found = outcome.result["run"][kind]
            if found["count"]:
                lines.append(f"{outcome.spec.name}: {found['count']} {kind.replace('_', ' ')}, such as {found['first'][0]}")
    if summary["cut_texts"]:
        lines.append(f"{summary['cut_texts']} texts were too long and were cut")
    if run.missing:
        shown = ", ".join(run.missing[:5]) + (", …" if len(run.missing) > 5 else "")
        lines.append(f"{len(run.missing)} tasks without data or not asked for: {shown}")
    if run.reused:
        lines.append(f"{len(run.reused)} tasks were finished before and not run again")
    return lines


def compare(first: SuiteRun, second: SuiteRun) -> dict[str, Any]:
    """Figures of both and their difference, for tasks that both have.

    Raises:
        InputError: the runs are of different suites or conventions.
    """
    kinds = [(run.suite.name, run.suite.convention) for run in (first, second)]
    if kinds[0] != kinds[1]:
        raise InputError(f"results of {' '.join(kinds[0]).strip()} and of {' '.join(kinds[1]).strip()} are never compared; run both alike")
    both: dict[str, dict[str, Any]] = {}
    for name, outcome in first.outcomes.items():
        if name not in second.outcomes:
            continue
        other = second.outcomes[name].figures
        for part, value in outcome.figures.items():
            if part in other:
                figures = {"first": value, "second": other[part], "difference": value - other[part]}
                both[part] = {"metric": outcome.spec.metric, **figures}
    found = list(both.values())
    mean = {key: float(np.mean([each[key] for each in found])) for key in ("first", "second", "difference")} if found else None
    return {"tasks": both, "mean": mean, "compared": len(both)}


def comparison_table(compared: dict[str, Any], names: tuple[str, str]) -> list[str]:
    """Lines for a terminal."""
    width = max([12, *(len(name) for name in compared["tasks"])])
    columns = [max(9, len(name)) for name in names]
    lines = [f"{'task':{width}} {'metric':15} {names[0]:>{columns[0]}} {names[1]:>{columns[1]}} {'difference':>10}"]
    rows = [(name, each["metric"], each) for name, each in compared["tasks"].items()]
    if compared["mean"] is not None:
        rows.append((f"mean of {compared['compared']}", "", compared["mean"]))
    for name, metric, each in rows:
        figures = f"{each['first']:{columns[0]}.4f} {each['second']:{columns[1]}.4f} {each['difference']:+10.4f}"
        lines.append(f"{name:{width}} {metric:15} {figures}")
    return lines
