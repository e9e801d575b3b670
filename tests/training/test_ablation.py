"""The ablation: its data hold out what they say, its arms are what they are called, a stopped one goes on where it stood."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from lame_runtime.errors import InputError
from lame_runtime.retrieval import read_rows
from lame_training.__main__ import main
from lame_training.ablation import arms, runner
from lame_training.ablation.arms import ARMS
from lame_training.ablation.report import write_report
from lame_training.ablation.trial import Bench, Trial
from lame_training.reasoning import HARDEST, POOL, TASKS, TINY, families, name_digits, name_sorted, near_rows, split_rows, write_reasoning


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks of growing difficulty in their tiny size."""
    root = tmp_path_factory.mktemp("reasoning") / "data"
    write_reasoning(root, TINY)
    return root


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference of three steps a stage on small batches."""
    stages = tuple(dataclasses.replace(stage, steps=3, batch_size=16, sub_batch=8) for stage in arms.REFERENCE.stages)
    monkeypatch.setattr(arms, "REFERENCE", dataclasses.replace(arms.REFERENCE, stages=stages))
    monkeypatch.setattr(runner, "ROUNDS", 1)
    monkeypatch.setattr(runner, "STEPS", 3)


def test_no_two_splits_share_a_combination_of_digits() -> None:
    """As multisets, in any order; together they are all there are."""
    splits = split_rows(np.random.default_rng(0))
    for length, combinations in ((2, 55), (4, 715), (6, 5005)):
        held = [{tuple(sorted(row)) for row in split[length]} for split in splits.values()]
        assert sum(map(len, held)) == len(set().union(*held)) == combinations


def test_wrong_candidates_are_what_nearly_the_same_row_would_be_answered_with(rows: Path) -> None:
    """One right candidate, the others one digit or one swap away from it."""
    for row in read_rows(rows, "read6", "eval"):
        right, *wrong = (candidate.text.split() for candidate in row.candidates)
        assert len(wrong) == 15
        for words in wrong:
            differing = sum(a != b for a, b in zip(words, right, strict=True))
            assert differing == 1 or (differing == 2 and sorted(words) == sorted(right)), (words, right)
    for row in read_rows(rows, "find6", "eval"):
        assert len({candidate.image for candidate in row.candidates}) == len(row.candidates) == 16


def test_searches_have_pictures_of_rows_easily_taken_for_the_right_one() -> None:
    """Rows of the other splits come in families; each member is of the split, and near the first."""
    rng = np.random.default_rng(0)
    possible = split_rows(rng)["eval"][6]
    for _ in range(20):
        first, *others = itertools.islice(families(possible, rng), POOL)
        assert len(set(others)) == POOL - 1
        assert set(others) <= set(possible) & set(near_rows(first)) - {first}


def test_answers_are_those_of_the_row() -> None:
    """By hand."""
    assert name_sorted((7, 3, 9)) == "three seven nine"
    assert name_digits((7, 3, 9)) == "seven three nine"
    assert {(1, 2), (2, 1), (9, 2), (1, 0)} <= set(near_rows((1, 2)))


def test_a_plain_arm_has_neither_reason_tokens_nor_decoder_and_sees_the_same_rows(rows: Path) -> None:
    """K = 0 is not handicapped: same stages, same batches, every part trained from the first step."""
    by_name = {arm.name: arm.recipe(0, 5) for arm in ARMS}
    reference, plain = by_name["k8"], by_name["k0"]
    assert Trial.begin(Bench(rows), plain).model.decoder is None
    assert plain.n_reason == 0
    for ours, theirs in zip(plain.stages, reference.stages, strict=True):
        assert (ours.steps, ours.batch_size, ours.tasks) == (theirs.steps, theirs.batch_size, theirs.tasks)
        assert (ours.nce_weight, ours.rec_weight) == (1.0, 0.0)
        assert {"embed", "language_model", "vision"} <= set(ours.rates)


def test_every_arm_differs_from_every_other() -> None:
    """No two names for one recipe."""
    recipes = [json.dumps({**dataclasses.asdict(arm.recipe(0, 5)), "name": ""}, sort_keys=True) for arm in ARMS]
    assert len(set(recipes)) == len(ARMS)


def test_arms_train_as_long_as_the_reference() -> None:
    """At half the price twice the steps; what ends early is weighed by its share, and nothing trains for less than a step."""
    by_name = {arm.name: arm for arm in ARMS}
    cost = {"rec": 0.1, "both": 0.2, "nce": 0.1}
    warm, joint = by_name["k8"].recipe(0).stages
    seconds = runner.seconds_of(by_name["k8"].recipe(0), cost)
    assert seconds == pytest.approx(warm.steps * 0.1 + joint.steps * 0.2)
    assert runner.steps_in(by_name["k8"], cost, seconds) == joint.steps
    assert runner.steps_in(by_name["k0"], cost, seconds) == 2 * joint.steps
    assert runner.steps_in(by_name["no-stage-1"], cost, seconds) == joint.steps + warm.steps // 2
    assert runner.steps_in(by_name["lambda-until-40"], cost, seconds) == round(joint.steps * 0.2 / 0.14)
    assert runner.steps_in(by_name["k8"], cost, 1.0) == 1
    jobs = runner.jobs([by_name["k8"], by_name["k0"]], {"k8": cost, "k0": cost}, 2)
    assert [(job.arm, job.budget, job.joint_steps) for job in jobs[1:4]] == [
        ("k8", "time", joint.steps), ("k0", "time", 2 * joint.steps), ("k0", "time", 2 * joint.steps)
    ]  # fmt: skip
    assert (jobs[-1].budget, jobs[-1].joint_steps) == ("steps", joint.steps)
    jobs = runner.jobs([by_name["k8"], by_name["no-stage-1"]], {"k8": cost, "no-stage-1": cost}, 1)
    assert (jobs[-1].budget, jobs[-1].joint_steps) == ("steps", warm.steps + joint.steps), "without stage 1 the other has its steps"


def test_arms_of_the_same_work_share_their_calibration(rows: Path, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least time of all rounds, the same for plain embedders at any rate; what is known is not measured again."""
    taken = iter((0.3, 0.2))
    monkeypatch.setattr(runner, "ROUNDS", 2)
    monkeypatch.setattr(runner, "_timed_phases", lambda bench, arm: {"nce": [0.4, next(taken)]})
    plain = [arm for arm in ARMS if arm.name in ("k0", "k0-fast")]
    costs = runner.calibrate(tmp_path, Bench(rows), plain)
    assert costs["k0"] == costs["k0-fast"] == {"nce": 0.2}
    assert runner.calibrate(tmp_path, Bench(rows), plain) == costs
    (tmp_path / "calibration.json").write_text(json.dumps({"k0": costs["k0"]}))
    assert runner.calibrate(tmp_path, Bench(rows), plain) == costs, "an arm that came later takes as long as its like"


def test_a_stopped_ablation_goes_on_where_it_stood(rows: Path, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial whose result is there is not run again; a table and a plot come out."""
    monkeypatch.setattr(runner, "steps_in", lambda arm, cost, seconds: 2)
    out = tmp_path / "ablation"
    command = ["ablation", str(out), "--data", str(rows), "--arms", "k8", "k0", "--seeds", "1"]
    assert main(command) == 0
    files = {path: path.stat().st_mtime_ns for path in (out / "trials").iterdir()}
    assert {path.name for path in files} == {"k8.time.0.json", "k0.time.0.json", "k0.steps.0.json"}
    lost = out / "trials/k0.time.0.json"
    first = json.loads(lost.read_text())
    lost.unlink()
    assert main(command) == 0
    assert {path for path, time in files.items() if path.stat().st_mtime_ns != time} == {lost}
    again = json.loads(lost.read_text())
    assert again["losses"]["nce"] == pytest.approx(first["losses"]["nce"], rel=1e-4), "a seed gives the same trial again"
    monkeypatch.setattr(runner, "steps_in", lambda arm, cost, seconds: 4)
    assert main(command) == 0
    assert json.loads(lost.read_text())["steps"] == again["steps"] + 2, "a trial of another length is run again"
    assert set(HARDEST) <= {task.name for task in TASKS} == set(again["eval"])
    assert "| k0 |" in write_report(out)
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_trial_that_fails_ends_the_ablation(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials that have not begun are not waited for."""
    ran: list[str] = []

    class Threads(ThreadPoolExecutor):
        """One thread in place of processes, which would not see what is replaced here."""

        def __init__(self, *_: object) -> None:
            super().__init__(1)

    def work(out: Path, job: runner.Job) -> str:
        ran.append(job.file)
        if len(ran) == 1:
            raise InputError("the loss is nan")
        time.sleep(0.2)
        return job.file

    monkeypatch.setattr(runner, "ProcessPoolExecutor", Threads)
    monkeypatch.setattr(runner, "_work", work)
    monkeypatch.setattr(runner, "calibrate", lambda out, bench, arms: {arm.name: {"nce": 1.0, "rec": 1.0, "both": 1.0} for arm in arms})
    with pytest.raises(InputError, match="the loss is nan"):
        runner.run(tmp_path, rows, ARMS, 3, 2)
    assert len(ran) <= 3 < len(ARMS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--arms", "k7"], "k7"), (["--seeds", "0"], "--seeds"), (["--processes", "-1"], "--processes")],
    ids=["an arm there is not", "no seeds", "no process"],
)
def test_wrong_use_is_one_line(arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names what was wrong and writes nothing."""
    assert main(["ablation", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
