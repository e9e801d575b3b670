"""The results of the finished trials as a Markdown table and a plot."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lame_runtime.errors import StorageError
from lame_runtime.files.atomic import atomic_path, atomic_text
from lame_runtime.files.json_file import read_json

from lame_training.studies.ablation.arms import ARMS
from lame_training.studies.digit_rows import HARDEST, TASKS

TrialResults = dict[tuple[str, str], list[dict[str, Any]]]
"""Results of trials by arm and budget, as `ablation_runner` writes them, seeds in order."""
COLORS = {"k8": "tab:blue", "k0": "tab:orange"}
"""Colors of the bars of the reference and of the plain embedder; the others are gray."""


class ArmResults(NamedTuple):
    """The results of one arm with one budget."""

    name: str
    description: str
    budget: str
    results: list[dict[str, Any]]


def write_report(out: Path) -> str:
    """Writes `OUT/report.md` and `OUT/ablation.png` from `OUT/trials/`.

    Returns:
        The Markdown.

    Raises:
        StorageError: a file cannot be written, or a result is damaged.
    """
    trials = read_trials(out)
    tables = [_table_of_hardest(trials), _table_by_task(trials), _table_of_probes(trials)]
    text = "\n\n".join(tables) + "\n"
    atomic_text(out / "report.md", text)
    with atomic_path(out / "ablation.png") as path:
        draw(trials, path)
    return text


def read_trials(out: Path) -> TrialResults:
    """Reads the results in `OUT/trials/`; raises `StorageError` for a file that is none."""
    trials: TrialResults = defaultdict(list)
    # sorted by name, and so by seed within an arm and budget
    for path in sorted((out / "trials").glob("*.json")):
        result = read_result(path)
        if result is None:
            raise StorageError(
                f"{path}: is no result of a trial; remove it and run the ablation again"
            )
        trials[result["arm"], result["budget"]].append(result)
    return trials


def read_result(path: Path) -> dict[str, Any] | None:
    """Reads the result of a trial; None if the file is damaged or something else."""
    try:
        result: dict[str, Any] = read_json(path)
        hits = [result[name] for name in ("valid", "eval")]
        hits += [result[name] for name in ("dropped", "swapped") if name in result]
        values = [measured[task] for measured in hits for task in HARDEST]
        values += [value for measured in hits for value in measured.values()]
        values += [result[name] for name in ("seed", "seconds", "parameters")]
        values += [value for value in result["losses"].values() if value is not None]
        known = {"nce", "rec"} <= set(result["losses"]) and all(
            isinstance(result[name], str) for name in ("arm", "budget")
        )
        numbers = all(isinstance(value, int | float) for value in values)
        steps = result["steps"]
        whole = known and numbers and isinstance(steps, int) and steps > 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return result if whole else None


def mean_of_hardest(result: dict[str, Any], measured: str = "eval") -> float:
    """Returns the mean hit@1 over the hardest tasks.

    Args:
        result: a trial's result.
        measured: its key: "eval", "valid", "swapped" or "dropped".
    """
    return statistics.mean(result[measured][task] for task in HARDEST)


def in_points(values: Sequence[float]) -> str:
    """Formats mean ± standard deviation in points; without the latter for a single value."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _in_order(trials: TrialResults) -> list[ArmResults]:
    """Returns the arms that were run, in the order of `ARMS`."""
    return [
        ArmResults(arm.name, arm.description, budget, trials[arm.name, budget])
        for arm in ARMS
        for budget in ("time", "steps")
        # `in`, because a look-up would add an empty list to the defaultdict
        if (arm.name, budget) in trials
    ]


def _table_of_hardest(trials: TrialResults) -> str:
    """Returns the main table: every arm with both budgets, on the hardest tasks."""
    lines = [
        "hit@1 in points, mean ± standard deviation over seeds; *hardest* is the mean of "
        f"{', '.join(HARDEST)}.",
        "",
        "| arm | what | equal | seeds | steps | seconds | s a step | L_rec | hardest, valid "
        "| hardest, eval |",
        "| --- " * 10 + "|",
    ]
    for name, description, budget, results in _in_order(trials):
        seconds = statistics.mean(result["seconds"] for result in results)
        # the same in all seeds
        steps = results[0]["steps"]
        losses = [result["losses"]["rec"] for result in results]
        # None at the end of training in arms whose L_rec has ended
        rec_losses = [loss for loss in losses if loss is not None]
        rec = f"{statistics.mean(rec_losses):.2f}" if rec_losses else "–"
        hits = [
            in_points([mean_of_hardest(result, split) for result in results])
            for split in ("valid", "eval")
        ]
        facts = [str(len(results)), str(steps), f"{seconds:.0f}", f"{seconds / steps:.3f}", rec]
        lines.append(f"| {' | '.join([name, description, budget, *facts, *hits])} |")
    return "\n".join(lines)


def _table_by_task(trials: TrialResults) -> str:
    """Returns the arms at equal time, with a column per task."""
    names = [task.name for task in TASKS]
    lines = [f"| arm, equal time | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for name, _, budget, results in _in_order(trials):
        if budget == "time":
            hits = [in_points([result["eval"][task] for result in results]) for task in names]
            lines.append(f"| {' | '.join([name, *hits])} |")
    return "\n".join(lines)


def _table_of_probes(trials: TrialResults) -> str:
    """Returns the arms with reason tokens that were swapped and dropped."""
    lines = [
        "| reason tokens of the queries | hardest, eval | swapped | dropped |",
        "| --- | --- | --- | --- |",
    ]
    for name, _, budget, results in _in_order(trials):
        # results of arms that were not probed, or have no reason tokens, lack the key
        if budget == "time" and all("swapped" in result for result in results):
            hits = [
                in_points([mean_of_hardest(result, measured) for result in results])
                for measured in ("eval", "swapped", "dropped")
            ]
            lines.append(f"| {' | '.join([name, *hits])} |")
    return "\n".join(lines)


def draw(trials: TrialResults, path: Path) -> None:
    """Draws two panels into a PNG: every arm at equal time, and hit@1 over K with both budgets."""
    # imported here: it takes a second that reading the results does not need
    import matplotlib

    # no window: the machine may have no display
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.6), width_ratios=(3, 2), layout="constrained"
    )
    _draw_arms(left, trials)
    _draw_reason_tokens(right, trials)
    figure.savefig(path, dpi=90, format="png")
    # pyplot keeps figures until they are closed
    plt.close(figure)


def _draw_arms(panel: Any, trials: TrialResults) -> None:
    """Draws a bar per arm at equal time, with a dot per seed."""
    bars = [
        (name, [100 * mean_of_hardest(result) for result in results])
        for name, _, budget, results in _in_order(trials)
        if budget == "time"
    ]
    # horizontal bars grow from the bottom; the reference is to be on top
    bars.reverse()
    panel.barh(
        [name for name, _ in bars],
        [statistics.mean(values) for _, values in bars],
        color=[COLORS.get(name, "0.7") for name, _ in bars],
    )
    for place, (_, values) in enumerate(bars):
        panel.plot(values, [place] * len(values), "k.", markersize=4)
    panel.set(
        xlabel="hit@1 on the hardest tasks, points (a dot is a seed)",
        title="at equal training time",
    )


def _draw_reason_tokens(panel: Any, trials: TrialResults) -> None:
    """Draws hit@1 over the number of reason tokens, a line per budget."""
    for budget, style in (("time", "o-"), ("steps", "s--")):
        labels, means, deviations = [], [], []
        for k in (0, 1, 2, 4, 8, 16):
            results = trials.get((f"k{k}", budget))
            if not results and k == 8:
                # the reference has one set of trials, because its time and steps are the budgets
                results = trials.get(("k8", "time"))
            if results:
                values = [100 * mean_of_hardest(result) for result in results]
                labels.append(str(k))
                means.append(statistics.mean(values))
                deviations.append(statistics.stdev(values) if len(values) > 1 else 0.0)
        # one point is no line; an ablation of some arms only has no more
        if len(labels) > 1:
            panel.errorbar(labels, means, deviations, fmt=style, capsize=3, label=f"equal {budget}")
    panel.set(xlabel="K, reason tokens", ylabel="points", title="number of reason tokens")
    if panel.lines:
        panel.legend()
