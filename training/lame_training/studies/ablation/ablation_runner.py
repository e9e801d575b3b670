"""Plans the trials of an ablation, and runs those that are missing.

    OUT/data/                           the digits, see `digit_rows`
    OUT/calibration.json                seconds that a step takes, by arm and losses
    OUT/trials/ARM.BUDGET.SEED.json     the result of one trial
    OUT/report.md   OUT/ablation.png    see `ablation_report`

A finished trial is not run again, so an ablation can be stopped at any time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from lame_runtime.errors import UsageError
from lame_runtime.files.atomic import atomic_text
from lame_runtime.progress import progress_bar

from lame_training.evaluation.suites.folders import make_folder
from lame_training.studies.ablation.ablation_report import read_result
from lame_training.studies.ablation.arms import ARMS, Arm
from lame_training.studies.ablation.calibration import (
    Costs,
    calibrate,
    steps_within,
    training_seconds,
)
from lame_training.studies.ablation.trial import AblationData, Trial
from lame_training.studies.digit_rows import HARDEST, TASKS


@dataclass(frozen=True)
class Job:
    """One trial to run."""

    arm: str
    budget: str
    """The quantity that equals the reference's: "time" or "steps"."""
    seed: int
    joint_steps: int
    """Steps of the last stage."""

    @property
    def file(self) -> str:
        """Path of the result, relative to the ablation's folder."""
        return f"trials/{self.arm}.{self.budget}.{self.seed}.json"


def arms_of(names: Sequence[str] | None) -> list[Arm]:
    """Returns the arms of these names, or all if `names` is None.

    The reference is always the first, because its time and steps are the measure of the others.

    Raises:
        UsageError: there is no such arm.
    """
    known = [arm.name for arm in ARMS]
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise UsageError(
            f"`arms` names {unknown[0]!r}, which does not exist: use some of {', '.join(known)}"
        )
    return [arm for arm in ARMS if names is None or arm.name in names or arm is ARMS[0]]


def run(out: Path, data: Path, arms: Sequence[Arm], seeds: int, processes: int) -> None:
    """Runs every trial whose result is not in `out` yet, or has another number of steps.

    Args:
        out: the ablation's folder.
        data: the folder that `digit_rows.write_reasoning` wrote.
        arms: the arms to compare, the reference first, see `arms_of`.
        seeds: trials per arm and budget.
        processes: number of trials at a time, each on one thread.

    Raises:
        StorageError: a file cannot be read or written.
        TrainingError: a trial diverged; finished trials are kept.
    """
    make_folder(out / "trials", "out")
    # One thread here and in workers, so that the times of calibration and trials can be compared.
    torch.set_num_threads(1)
    ablation_data = AblationData(data)
    costs = calibrate(out, ablation_data, arms)
    missing = [job for job in plan_jobs(arms, costs, seeds) if not _is_complete(out, job)]
    bar = progress_bar(total=len(missing), desc="trials", unit="trials")
    # in this process, where ctrl-C and errors need no care
    if processes == 1:
        for job in missing:
            bar.set_description(job.file)
            run_job(out, ablation_data, job)
            bar.update()
        return
    # spawned, because a forked process would inherit PyTorch's threads in an undefined state
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start_worker, (data,)) as pool:
        try:
            for future in as_completed([pool.submit(_run_in_worker, out, job) for job in missing]):
                bar.set_description(future.result())
                bar.update()
        except BaseException:
            # otherwise leaving the block would wait for every trial
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _is_complete(out: Path, job: Job) -> bool:
    """Returns whether the job's result exists and has as many steps as the job."""
    # another number of steps: the arm was changed, or calibrated again, since it was run
    path = out / job.file
    if not path.is_file():
        return False
    result = read_result(path)
    # a damaged result is measured again
    if result is None:
        return False
    return bool(result["steps"] == arm_of(job).recipe(job.seed, job.joint_steps).steps)


def arm_of(job: Job) -> Arm:
    """Returns the arm that a job runs."""
    return next(arm for arm in ARMS if arm.name == job.arm)


def plan_jobs(arms: Sequence[Arm], costs: Costs, seeds: int) -> list[Job]:
    """Returns all trials, those at equal time first, because they answer the most.

    Args:
        arms: the arms; the first is the reference, which sets time and steps.
        costs: seconds per step, see `calibrate`.
        seeds: trials per arm and budget.
    """
    reference = arms[0].recipe(0)
    seconds = training_seconds(reference, costs[reference.name])
    jobs = []
    for arm in arms:
        budgets = {"time": steps_within(arm, costs[arm.name], seconds)}
        if arm.equal_steps:
            # less the steps of its stage 1: an arm without one has all steps in its only stage
            budgets["steps"] = reference.steps - arm.recipe(0, 0).steps
        jobs += [
            Job(arm.name, budget, seed, steps)
            for budget, steps in budgets.items()
            for seed in range(seeds)
        ]
    # a stable sort: within a budget the order of the arms stays
    return sorted(jobs, key=lambda job: job.budget != "time")


def run_job(out: Path, data: AblationData, job: Job) -> None:
    """Trains and evaluates a trial, and writes its result."""
    arm = arm_of(job)
    recipe = arm.recipe(job.seed, job.joint_steps)
    trial = Trial.begin(data, recipe)
    losses = trial.train()
    result = {
        "arm": arm.name,
        "budget": job.budget,
        "seed": job.seed,
        "steps": recipe.steps,
        "seconds": sum(trial.seconds),
        # of the model that embeds: the latent decoder is dropped after training
        "parameters": sum(
            parameter.numel()
            for name, parameter in trial.model.named_parameters()
            if not name.startswith(("decoder.", "connector."))
        ),
        "losses": losses,
        "valid": trial.hits(HARDEST, "valid"),
        "eval": trial.hits([task.name for task in TASKS], "eval"),
    }
    if arm.probed and recipe.n_reason:
        # on the tasks that arms are compared on; the others would only take time
        for changed in ("dropped", "swapped"):
            result[changed] = trial.hits(HARDEST, "eval", changed)
    atomic_text(out / job.file, json.dumps(result, indent=1) + "\n")


_WORKER_DATA: list[AblationData] = []
"""The data of a worker process; empty in the main process."""


def _start_worker(data: Path) -> None:
    """Initializes a worker process of the pool."""
    # Ctrl-C reaches every process. A worker of a pool would catch it and begin the next trial.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # see `run`
    torch.set_num_threads(1)
    # the pool offers no other way to hand an object from the initializer to the jobs
    _WORKER_DATA.append(AblationData(data))


def _exit_with_parent() -> None:
    """Ends the worker when the main process is gone.

    A worker whose main process was killed would otherwise go on with its trial, at the same time as
    the trials of the next command.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)


def _run_in_worker(out: Path, job: Job) -> str:
    """Runs a job in a worker process; returns its file, for the progress bar."""
    run_job(out, _WORKER_DATA[0], job)
    return job.file
