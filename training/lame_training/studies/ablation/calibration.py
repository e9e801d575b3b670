"""Measures how long a training step of each arm takes, and how many steps fit into a time.

Trials at equal time get their number of steps from it before they begin. If a trial were stopped by
the clock instead, its schedule of learning rates would not end, and a busy machine would shorten
it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lame_runtime.errors import StorageError
from lame_runtime.files.atomic import atomic_text
from lame_runtime.files.json_file import read_json
from lame_runtime.progress import progress_bar

from lame_training.recipes.recipe import Recipe
from lame_training.studies.ablation.arms import ARMS, Arm
from lame_training.studies.ablation.trial import AblationData, Trial

ROUNDS = 4
"""Calibration: number of rounds over the arms."""
STEPS = 6
"""Calibration: steps of each kind in a round."""
UNCOUNTED_STEPS = 2
"""Calibration: first steps of a round, which are not counted: they include one-time work."""
Costs = dict[str, dict[str, float]]
"""Seconds that a step takes, by arm and by the losses it has: "nce", "rec" or "both"."""


def training_seconds(recipe: Recipe, cost: dict[str, float]) -> float:
    """Returns the seconds that training takes, from the cost of a step by its losses."""
    seconds = 0.0
    for stage in recipe.stages:
        # L_rec may end before the stage does, and the steps after it are cheaper
        share = stage.rec_until if stage.rec_weight > 0 else 0.0
        with_rec = 0.0 if share == 0 else cost["both" if stage.nce_weight > 0 else "rec"]
        seconds += stage.steps * (share * with_rec + (1 - share) * cost["nce"])
    return seconds


def steps_within(arm: Arm, cost: dict[str, float], seconds: float) -> int:
    """Returns the steps of the last stage with which the arm trains for `seconds`; 1 at least."""
    # costs are per step, so time grows linearly with the steps: two points give the line
    without_stage = training_seconds(arm.recipe(0, 0), cost)
    with_one_step = training_seconds(arm.recipe(0, 1), cost)
    return max(1, round((seconds - without_stage) / (with_one_step - without_stage)))


def calibrate(out: Path, data: AblationData, arms: Sequence[Arm]) -> Costs:
    """Measures how long steps take, unless `out/calibration.json` has it already.

    The figures are kept, so that trials of a later call are as long as those of this one. Arms take
    turns. Arms with the same work per step share one measurement. It is the shortest time, because
    whatever else the machine does only adds to it.

    Returns:
        The costs of `arms`, and of all others that are known.

    Raises:
        StorageError: the file cannot be read or written, or is damaged.
    """
    # measuring again would give other figures, and with them trials of other lengths
    path = out / "calibration.json"
    costs = _read_costs(path)
    groups: dict[tuple[object, ...], list[Arm]] = {}
    for arm in ARMS:
        groups.setdefault(_work_per_step(arm.recipe(0)), []).append(arm)
    for group in groups.values():
        known = [costs[arm.name] for arm in group if arm.name in costs]
        if known:
            # an arm that was added later takes as long as the others of its group
            costs |= {arm.name: known[0] for arm in group}
    missing = [
        group
        for group in groups.values()
        if any(arm in arms for arm in group) and group[0].name not in costs
    ]
    durations: dict[str, dict[str, list[float]]] = {group[0].name: {} for group in missing}
    rounds = progress_bar(range(ROUNDS), desc="calibration", unit="rounds", disable=not missing)
    for _ in rounds:
        for group in missing:
            for losses, seconds in _time_steps(data, group[0]).items():
                durations[group[0].name].setdefault(losses, []).extend(seconds)
    # one measurement stands for the whole group: its other arms do the same work per step
    for group in missing:
        shortest = {losses: min(values) for losses, values in durations[group[0].name].items()}
        costs |= {arm.name: shortest for arm in group}
    atomic_text(path, json.dumps(costs, indent=2) + "\n")
    return costs


def _read_costs(path: Path) -> Costs:
    """Returns the costs in a `calibration.json`; {} if there is no such file.

    Raises:
        StorageError: the file cannot be read, or holds something else.
    """
    if not path.exists():
        return {}
    try:
        costs: Costs = read_json(path)
        seconds = [value for losses in costs.values() for value in losses.values()]
        whole = all(isinstance(value, int | float) and value > 0 for value in seconds) and all(
            "nce" in losses and set(losses) <= {"nce", "rec", "both"} for losses in costs.values()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        whole = False
    # measured again, the trials that are done and those to come would differ in length
    if not whole:
        raise StorageError(
            f"{path}: is no calibration; restore it, or choose another `out` for a new ablation"
        )
    return costs


def _work_per_step(recipe: Recipe) -> tuple[object, ...]:
    """Returns the settings that the time of a step depends on, of those in which arms differ."""
    # whether there is a decoder, not which: all arms that have one have the same
    return (
        recipe.n_reason,
        recipe.decoder is None,
        recipe.embed_attends,
        recipe.rec_from,
        recipe.pooling,
    )


def _time_steps(data: AblationData, arm: Arm) -> dict[str, list[float]]:
    """Returns the seconds of some steps of an arm, by the losses that the steps have."""
    recipe = arm.recipe(0, STEPS)
    # a plain embedder has no decoder, and so no L_rec to time
    weights = {"nce": (1.0, 0.0), "rec": (0.0, 1.0), "both": (1.0, 1.0)}
    seconds = {}
    for losses in weights if recipe.decoder is not None else ("nce",):
        nce_weight, rec_weight = weights[losses]
        # rec_until 1.0: in an arm whose L_rec ends early, not all steps would have the losses
        stage = replace(
            recipe.stages[-1], nce_weight=nce_weight, rec_weight=rec_weight, rec_until=1.0
        )
        trial = Trial.begin(data, replace(recipe, stages=(stage,)))
        trial.train()
        seconds[losses] = trial.seconds[UNCOUNTED_STEPS:]
    return seconds
