"""Which trials there are, how long each is, and running what is not yet done.

OUT/data/   OUT/calibration.json   OUT/trials/ARM.BUDGET.SEED.json   OUT/report.md   OUT/ablation.png
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lame_runtime.atomic import atomic_text
from lame_runtime.errors import InputError
from tqdm import tqdm

from lame_training.ablation.arms import ARMS, Arm
from lame_training.ablation.trial import Bench, Trial
from lame_training.reasoning import HARDEST, TASKS

ROUNDS, STEPS = 3, 8
"""Calibration: rounds over all arms, and steps of each kind in a round, the first two of which are not counted."""


@dataclass(frozen=True)
class Job:
    """One trial to run."""

    arm: str
    budget: str
    """"time" or "steps": what it has in common with the reference."""
    seed: int
    joint_steps: int

    @property
    def file(self) -> str:
        """Where its result lies."""
        return f"trials/{self.arm}.{self.budget}.{self.seed}.json"


def arms_of(names: Sequence[str] | None) -> list[Arm]:
    """The arms of these names, all without names, the reference always first; raises `InputError`."""
    known = {arm.name: arm for arm in ARMS}
    if unknown := sorted(set(names or ()) - set(known)):
        raise InputError(f"unknown arm {unknown[0]!r}: there are {', '.join(known)}")
    return [arm for arm in ARMS if names is None or arm.name in names or arm is ARMS[0]]


def run(out: Path, data: Path, arms: Sequence[Arm], seeds: int, seconds: float, processes: int) -> None:
    """Runs every trial whose result is not in `out` yet.

    Args:
        out: the ablation's folder.
        data: what `reasoning.write_reasoning` wrote.
        arms: what is compared.
        seeds: trials per arm and budget.
        seconds: of training in each trial, by which the number of steps is set.
        processes: trials at a time, on a thread each.

    Raises:
        InputError: `out` was calibrated for other seconds.
    """
    (out / "trials").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(data)
    costs = calibrate(out, bench, arms, seconds)
    todo = [job for job in jobs(arms, costs, seeds, seconds) if not (out / job.file).is_file()]
    bar = tqdm(total=len(todo), unit="trial")
    if processes == 1:
        for job in todo:
            bar.set_description(job.file)
            run_job(out, bench, job)
            bar.update()
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (data,)) as pool:
        for done in as_completed([pool.submit(_work, out, job) for job in todo]):
            bar.set_description(done.result())
            bar.update()


def jobs(arms: Sequence[Arm], costs: dict[str, dict[str, float]], seeds: int, seconds: float) -> list[Job]:
    """All trials, in the order in which they answer the most."""
    reference = steps_in(arms[0], costs, seconds)
    found = []
    for arm in arms:
        budgets = {"time": steps_in(arm, costs, seconds)}
        if arm.equal_steps:
            budgets["steps"] = reference
        found += [Job(arm.name, budget, seed, steps) for budget, steps in budgets.items() for seed in range(seeds)]
    return found


def steps_in(arm: Arm, costs: dict[str, dict[str, float]], seconds: float) -> int:
    """Steps of stage 2 after which the arm has trained for `seconds`.

    Raises:
        InputError: stage 1 alone takes longer.
    """
    *before, joint = arm.recipe(0, 1).stages
    cost = costs[arm.name]
    left = seconds - sum(stage.steps for stage in before) * cost["warm-up"]
    share = joint.rec_until if joint.rec_weight > 0 else 0.0
    steps = int(left / (share * cost["with L_rec"] + (1 - share) * cost["without"]))
    if steps < 1:
        raise InputError(f"--seconds {seconds:g}: stage 1 of arm {arm.name} takes {seconds - left:.0f}; give more")
    return steps


def calibrate(out: Path, bench: Bench, arms: Sequence[Arm], seconds: float) -> dict[str, dict[str, float]]:
    """Seconds a step takes in each phase of each arm: medians, all arms in turn, in `out/calibration.json` from then on."""
    path = out / "calibration.json"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"seconds": seconds, "arms": {}}
    if known["seconds"] != seconds:
        raise InputError(f"{out}: holds trials of {known['seconds']:g} s; give --seconds {known['seconds']:g}, or another folder")
    missing = [arm for arm in arms if arm.name not in known["arms"]]
    taken: dict[str, dict[str, list[float]]] = {arm.name: {} for arm in missing}
    for _ in tqdm(range(ROUNDS), "calibration", disable=not missing):
        for arm in missing:
            for phase, times in _timed_phases(bench, arm).items():
                taken[arm.name].setdefault(phase, []).extend(times)
    for name, phases in taken.items():
        known["arms"][name] = {phase: statistics.median(times) for phase, times in phases.items()}
    atomic_text(path, json.dumps(known, indent=2) + "\n")
    costs: dict[str, dict[str, float]] = known["arms"]
    return costs


def _timed_phases(bench: Bench, arm: Arm) -> dict[str, list[float]]:
    recipe = arm.recipe(0, STEPS)
    *before, joint = recipe.stages
    phases = {"warm-up": before[:1], "with L_rec": [replace(joint, rec_until=1.0)], "without": [replace(joint, rec_until=0.0)]}
    if joint.rec_weight == 0:
        del phases["with L_rec"]
    found = {"warm-up": [0.0], "with L_rec": [0.0]}
    for phase, stages in phases.items():
        if stages:
            trial = Trial.begin(bench, replace(recipe, stages=(replace(stages[0], steps=STEPS),)))
            trial.train()
            found[phase] = trial.seconds[2:]
    return found


def run_job(out: Path, bench: Bench, job: Job) -> None:
    """Trains, measures, and writes the result."""
    arm = next(arm for arm in ARMS if arm.name == job.arm)
    recipe = arm.recipe(job.seed, job.joint_steps)
    trial = Trial.begin(bench, recipe)
    losses = trial.train()
    result = {
        "arm": arm.name,
        "budget": job.budget,
        "seed": job.seed,
        "steps": recipe.steps,
        "seconds": sum(trial.seconds),
        "parameters": sum(
            value.numel() for name, value in trial.model.named_parameters() if not name.startswith(("decoder.", "connector."))
        ),
        "losses": losses,
        "valid": trial.hits(HARDEST, "valid"),
        "eval": trial.hits([task.name for task in TASKS], "eval"),
    }
    if arm.probed and recipe.n_reason:
        result |= {changed: trial.hits(HARDEST, "eval", changed) for changed in ("dropped", "swapped")}
    atomic_text(out / job.file, json.dumps(result, indent=1) + "\n")


_BENCH: list[Bench] = []
"""Of a worker process."""


def _start(data: Path) -> None:
    torch.set_num_threads(1)
    _BENCH.append(Bench(data))


def _work(out: Path, job: Job) -> str:
    run_job(out, _BENCH[0], job)
    return job.file
