"""What the finished trials say: a Markdown table and a plot."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lame_runtime.atomic import atomic_path, atomic_text

from lame_training.ablation.arms import ARMS
from lame_training.reasoning import HARDEST, TASKS

Trials = dict[tuple[str, str], list[dict[str, Any]]]
"""Results by arm and budget."""


def write_report(out: Path) -> str:
    """Writes `OUT/report.md` and `OUT/ablation.png` from `OUT/trials/`; returns the Markdown."""
    trials = read_trials(out)
    text = "\n\n".join([_hardest(trials), _by_task(trials), _probes(trials)]) + "\n"
    atomic_text(out / "report.md", text)
    with atomic_path(out / "ablation.png") as path:
        draw(trials, path)
    return text


def read_trials(out: Path) -> Trials:
    """The results there are, seeds in order."""
    found: Trials = defaultdict(list)
    for path in sorted((out / "trials").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[result["arm"], result["budget"]].append(result)
    return found


def hardest(result: dict[str, Any], measured: str = "eval") -> float:
    """Mean hit@1 over the hardest tasks."""
    return statistics.mean(result[measured][task] for task in HARDEST)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation in points."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def _rows(trials: Trials) -> list[tuple[str, str, str, list[dict[str, Any]]]]:
    """(arm, what it is, budget, results) of what was run, in the order of the arms."""
    return [
        (arm.name, arm.says, budget, trials[arm.name, budget])
        for arm in ARMS
        for budget in ("time", "steps")
        if (arm.name, budget) in trials
    ]


def _hardest(trials: Trials) -> str:
    lines = [
        f"hit@1 in points, mean ± standard deviation over seeds; *hardest* is the mean of {', '.join(HARDEST)}.",
        "",
        "| arm | what | equal | seeds | steps | seconds | s a step | L_rec | hardest, valid | hardest, eval |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, says, budget, results in _rows(trials):
        seconds, steps = statistics.mean(r["seconds"] for r in results), results[0]["steps"]
        recs = [r["losses"]["rec"] for r in results if r["losses"]["rec"] is not None]
        rec = f"{statistics.mean(recs):.2f}" if recs else "–"
        valid, evaluated = (spread([hardest(r, split) for r in results]) for split in ("valid", "eval"))
        facts = f"{len(results)} | {steps} | {seconds:.0f} | {seconds / steps:.3f} | {rec}"
        lines.append(f"| {name} | {says} | {budget} | {facts} | {valid} | {evaluated} |")
    return "\n".join(lines)


def _by_task(trials: Trials) -> str:
    names = [task.name for task in TASKS]
    lines = [f"| arm, equal time | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for name, _, budget, results in _rows(trials):
        if budget == "time":
            lines.append(f"| {name} | " + " | ".join(spread([r["eval"][task] for r in results]) for task in names) + " |")
    return "\n".join(lines)


def _probes(trials: Trials) -> str:
    lines = ["| reason tokens of the queries | hardest, eval | swapped | dropped |", "| --- | --- | --- | --- |"]
    for name, _, budget, results in _rows(trials):
        if budget == "time" and all("swapped" in r for r in results):
            figures = [spread([hardest(r, measured) for r in results]) for measured in ("eval", "swapped", "dropped")]
            lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def draw(trials: Trials, path: Path) -> None:
    """Every arm at equal time, and K at equal time and at equal steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(3, 2), layout="constrained")
    bars = [(name, [100 * hardest(r) for r in results]) for name, _, budget, results in _rows(trials) if budget == "time"][::-1]
    colours = {"k8": "tab:blue", "k0": "tab:orange"}
    left.barh([name for name, _ in bars], [statistics.mean(v) for _, v in bars], color=[colours.get(name, "0.7") for name, _ in bars])
    for place, (_, values) in enumerate(bars):
        left.plot(values, [place] * len(values), "k.", markersize=4)
    left.set(xlabel="hit@1 on the hardest tasks, points (a dot is a seed)", title="at equal training time")
    for budget, style in (("time", "o-"), ("steps", "s--")):
        points = []
        for k in (0, 1, 2, 4, 8, 16):
            results = trials.get((f"k{k}", budget)) or (trials.get(("k8", "time")) if k == 8 else None)
            if results:
                values = [100 * hardest(r) for r in results]
                points.append((k, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0))
        if len(points) > 1:
            ks, means, deviations = zip(*points, strict=True)
            right.errorbar([str(k) for k in ks], means, deviations, fmt=style, capsize=3, label=f"equal {budget}")
    right.set(xlabel="K, reason tokens", ylabel="points", title="number of reason tokens")
    if right.lines:
        right.legend()
    figure.savefig(path, dpi=90, format="png")
    plt.close(figure)
