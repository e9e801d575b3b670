"""Which trials there are, how long each is, and running what is not yet done.

OUT/data/   OUT/calibration.json   OUT/trials/ARM.BUDGET.SEED.json   OUT/report.md   OUT/ablation.png
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lame_runtime.atomic import atomic_text
from lame_runtime.errors import InputError
from tqdm import tqdm

from lame_training.ablation.arms import ARMS, Arm
from lame_training.ablation.trial import Bench, Trial
from lame_training.reasoning import HARDEST, TASKS
from lame_training.recipes import Recipe

ROUNDS, STEPS = 4, 6
"""Calibration: rounds over the arms, and steps of each kind in a round, the first two of which are not counted."""


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


def run(out: Path, data: Path, arms: Sequence[Arm], seeds: int, processes: int) -> None:
    """Runs every trial whose result is not in `out` yet, or is of another length.

    Args:
        out: the ablation's folder.
        data: what `reasoning.write_reasoning` wrote.
        arms: what is compared.
        seeds: trials per arm and budget.
        processes: trials at a time, on a thread each.
    """
    (out / "trials").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(data)
    costs = calibrate(out, bench, arms)
    todo = [job for job in jobs(arms, costs, seeds) if not _is_done(out, job)]
    bar = tqdm(total=len(todo), unit="trial")
    if processes == 1:
        for job in todo:
            bar.set_description(job.file)
            run_job(out, bench, job)
            bar.update()
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (data,)) as pool:
        try:
            for done in as_completed([pool.submit(_work, out, job) for job in todo]):
                bar.set_description(done.result())
                bar.update()
        except BaseException:  # without this, leaving the block waits for every trial
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _is_done(out: Path, job: Job) -> bool:
    """Whether the job's result is there and of as many steps."""
    path = out / job.file
    if not path.is_file():
        return False
    steps: int = json.loads(path.read_text(encoding="utf-8"))["steps"]
    return steps == arm_of(job).recipe(job.seed, job.joint_steps).steps


def arm_of(job: Job) -> Arm:
    """The arm a job runs."""
    return next(arm for arm in ARMS if arm.name == job.arm)


Costs = dict[str, dict[str, float]]
"""Seconds a step takes, by arm and by the losses it has: "nce", "rec" or "both"."""


def jobs(arms: Sequence[Arm], costs: Costs, seeds: int) -> list[Job]:
    """All trials, in the order in which they answer the most. `arms` begins with the reference, whose steps set the time."""
    reference = arms[0].recipe(0)
    seconds = seconds_of(reference, costs[reference.name])
    found = []
    for arm in arms:
        budgets = {"time": steps_in(arm, costs[arm.name], seconds)}
        if arm.equal_steps:
            budgets["steps"] = reference.steps - arm.recipe(0, 0).steps  # an arm without stage 1 has all of them in one stage
        found += [Job(arm.name, budget, seed, steps) for budget, steps in budgets.items() for seed in range(seeds)]
    return sorted(found, key=lambda job: job.budget != "time")


def seconds_of(recipe: Recipe, cost: dict[str, float]) -> float:
    """What its training takes."""
    seconds = 0.0
    for stage in recipe.stages:
        share = stage.rec_until if stage.rec_weight > 0 else 0.0
        with_rec = 0.0 if share == 0 else cost["both" if stage.nce_weight > 0 else "rec"]
        seconds += stage.steps * (share * with_rec + (1 - share) * cost["nce"])
    return seconds


def steps_in(arm: Arm, cost: dict[str, float], seconds: float) -> int:
    """Steps of stage 2 with which the arm trains for `seconds`."""
    none, one = (seconds_of(arm.recipe(0, steps), cost) for steps in (0, 1))
    return max(1, round((seconds - none) / (one - none)))


def calibrate(out: Path, bench: Bench, arms: Sequence[Arm]) -> Costs:
    """What steps cost, kept in `out/calibration.json`, so that later trials are as long.

    Arms take turns, and arms whose steps are the same work share one measurement: the least time, since whatever else the
    machine does only adds to it.
    """
    path = out / "calibration.json"
    costs: Costs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    alike: dict[tuple[object, ...], list[Arm]] = {}
    for arm in ARMS:
        alike.setdefault(_work_of(arm.recipe(0)), []).append(arm)
    for group in alike.values():
        known = [costs[arm.name] for arm in group if arm.name in costs]
        costs |= {arm.name: known[0] for arm in group if known}  # an arm that came later takes as long as those before it
    missing = [group for group in alike.values() if any(arm in arms for arm in group) and group[0].name not in costs]
    taken: dict[str, dict[str, list[float]]] = {}
    for _ in tqdm(range(ROUNDS), "calibration", disable=not missing):
        for group in missing:
            for phase, times in _timed_phases(bench, group[0]).items():
                taken.setdefault(group[0].name, {}).setdefault(phase, []).extend(times)
    for group in missing:
        least = {phase: min(times) for phase, times in taken[group[0].name].items()}
        costs |= {arm.name: least for arm in group}
    atomic_text(path, json.dumps(costs, indent=2) + "\n")
    return costs


def _work_of(recipe: Recipe) -> tuple[object, ...]:
    """What the time of a step depends on among the arms."""
    return recipe.n_reason, recipe.decoder is None, recipe.embed_attends, recipe.rec_from, recipe.pooling


def _timed_phases(bench: Bench, arm: Arm) -> dict[str, list[float]]:
    recipe = arm.recipe(0, STEPS)
    weights = {"nce": (1.0, 0.0), "rec": (0.0, 1.0), "both": (1.0, 1.0)}
    found = {}
    for phase in weights if recipe.decoder is not None else ("nce",):
        nce_weight, rec_weight = weights[phase]
        stage = replace(recipe.stages[-1], nce_weight=nce_weight, rec_weight=rec_weight, rec_until=1.0)
        trial = Trial.begin(bench, replace(recipe, stages=(stage,)))
        trial.train()
        found[phase] = trial.seconds[2:]
    return found


def run_job(out: Path, bench: Bench, job: Job) -> None:
    """Trains, measures, and writes the result."""
    arm = arm_of(job)
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
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ctrl-C reaches every process: a pool's worker would catch it and take the next trial
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _BENCH.append(Bench(data))


def _end_with_parent() -> None:
    """A worker whose command was killed would go on with the trial, and beside those of the next command."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(out: Path, job: Job) -> str:
    run_job(out, _BENCH[0], job)
    return job.file
