"""The ablation.

The splits of its data are disjoint, its arms differ as their names say, and an ablation that was
stopped continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from lame_runtime.errors import TrainingError, UsageError
from lame_training.__main__ import main
from lame_training.evaluation.retrieval import read_rows
from lame_training.studies.ablation import ablation_runner, arms, calibration
from lame_training.studies.ablation.ablation_report import write_report
from lame_training.studies.ablation.arms import ARMS
from lame_training.studies.ablation.trial import AblationData, Trial
from lame_training.studies.digit_rows import (
    HARDEST,
    POOL_SIZE,
    TASKS,
    TINY,
    name_digits,
    name_sorted,
    near_groups,
    near_rows,
    split_rows,
    write_reasoning,
)
from lame_training.studies.probe_reason_tokens import probe, table


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the tasks of growing difficulty in their tiny size; returns their root."""
    root = tmp_path_factory.mktemp("reasoning") / "data"
    write_reasoning(root, TINY)
    return root


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the reference three steps per stage on small batches, and calibration one round."""
    stages = tuple(
        dataclasses.replace(stage, steps=3, batch_size=16, sub_batch=8)
        for stage in arms.REFERENCE.stages
    )
    monkeypatch.setattr(arms, "REFERENCE", dataclasses.replace(arms.REFERENCE, stages=stages))
    monkeypatch.setattr(calibration, "ROUNDS", 1)
    # one more than the steps that are not counted
    monkeypatch.setattr(calibration, "STEPS", 3)


def test_no_two_splits_share_a_combination_of_digits() -> None:
    """Combinations are multisets, in any order. Together the splits have all of them."""
    splits = split_rows(np.random.default_rng(0))
    for length, combinations in ((2, 55), (4, 715), (6, 5005)):
        multisets = [{tuple(sorted(row)) for row in split[length]} for split in splits.values()]
        # the sum equals the size of the union only if no two overlap
        assert sum(map(len, multisets)) == len(set().union(*multisets)) == combinations


def test_wrong_candidates_are_answers_to_nearly_the_same_row(rows: Path) -> None:
    """Each wrong candidate is one replaced digit or one exchange away from the right one."""
    for row in read_rows(rows, "read6", "eval"):
        right, *wrong = (candidate.text.split() for candidate in row.candidates)
        assert len(wrong) == 15
        for words in wrong:
            differing = sum(a != b for a, b in zip(words, right, strict=True))
            is_exchange = differing == 2 and sorted(words) == sorted(right)
            assert differing == 1 or is_exchange, (words, right)
    for row in read_rows(rows, "find6", "eval"):
        assert len({candidate.image for candidate in row.candidates}) == len(row.candidates) == 16


def test_searches_have_pictures_of_rows_easily_mistaken_for_the_right_one() -> None:
    """Rows of "valid" and "eval" come in groups; all are in the split, and near the first."""
    rng = np.random.default_rng(0)
    possible = split_rows(rng)["eval"][6]
    for _ in range(20):
        # six digits have more near rows than a pool holds, so the first group fills it
        first, *others = itertools.islice(near_groups(possible, rng), POOL_SIZE)
        assert len(set(others)) == POOL_SIZE - 1
        assert set(others) <= set(possible) & set(near_rows(first)) - {first}


def test_answers_are_those_of_the_row() -> None:
    """Answers and near rows of examples are those written down by hand."""
    assert name_sorted((7, 3, 9)) == "three seven nine"
    assert name_digits((7, 3, 9)) == "seven three nine"
    assert {(1, 2), (2, 1), (9, 2), (1, 0)} <= set(near_rows((1, 2)))


def test_a_plain_arm_has_neither_reason_tokens_nor_decoder_and_sees_the_same_rows(
    rows: Path,
) -> None:
    """K = 0 is at no disadvantage: same stages, same batches, all parts trained from the start."""
    by_name = {arm.name: arm.recipe(0, 5) for arm in ARMS}
    reference, plain = by_name["k8"], by_name["k0"]
    assert Trial.begin(AblationData(rows), plain).model.decoder is None
    assert plain.n_reason == 0
    for ours, theirs in zip(plain.stages, reference.stages, strict=True):
        assert (ours.steps, ours.batch_size, ours.tasks) == (
            theirs.steps,
            theirs.batch_size,
            theirs.tasks,
        )
        assert (ours.nce_weight, ours.rec_weight) == (1.0, 0.0)
        assert {"embed", "language_model", "vision"} <= set(ours.rates)


def test_every_arm_differs_from_every_other() -> None:
    """No two arms have the same recipe under different names."""
    recipes = [
        json.dumps({**dataclasses.asdict(arm.recipe(0, 5)), "name": ""}, sort_keys=True)
        for arm in ARMS
    ]
    assert len(set(recipes)) == len(ARMS)


def test_arms_train_as_long_as_the_reference() -> None:
    """Steps that cost half give twice as many steps.

    A loss that ends early counts by its share of the stage, and no arm trains for less than a step.
    """
    by_name = {arm.name: arm for arm in ARMS}
    cost = {"rec": 0.1, "both": 0.2, "nce": 0.1}
    warm, joint = by_name["k8"].recipe(0).stages
    seconds = calibration.training_seconds(by_name["k8"].recipe(0), cost)
    assert seconds == pytest.approx(warm.steps * 0.1 + joint.steps * 0.2)
    assert calibration.steps_within(by_name["k8"], cost, seconds) == joint.steps
    assert calibration.steps_within(by_name["k0"], cost, seconds) == 2 * joint.steps
    assert (
        calibration.steps_within(by_name["no-stage-1"], cost, seconds)
        == joint.steps + warm.steps // 2
    )
    assert calibration.steps_within(by_name["lambda-until-40"], cost, seconds) == round(
        joint.steps * 0.2 / 0.14
    )
    assert calibration.steps_within(by_name["k8"], cost, 1.0) == 1
    jobs = ablation_runner.plan_jobs([by_name["k8"], by_name["k0"]], {"k8": cost, "k0": cost}, 2)
    assert [(job.arm, job.budget, job.joint_steps) for job in jobs[1:4]] == [
        ("k8", "time", joint.steps),
        ("k0", "time", 2 * joint.steps),
        ("k0", "time", 2 * joint.steps),
    ]
    assert (jobs[-1].budget, jobs[-1].joint_steps) == ("steps", joint.steps)
    jobs = ablation_runner.plan_jobs(
        [by_name["k8"], by_name["no-stage-1"]], {"k8": cost, "no-stage-1": cost}, 1
    )
    assert (jobs[-1].budget, jobs[-1].joint_steps) == ("steps", warm.steps + joint.steps), (
        "an arm without stage 1 has all steps in its only stage"
    )


def test_arms_of_the_same_work_share_their_calibration(
    rows: Path, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortest time of all rounds counts, and plain embedders share it whatever their rate.

    Costs that are known are not measured again.
    """
    # two values for two rounds: another measurement would raise StopIteration
    durations = iter((0.3, 0.2))
    monkeypatch.setattr(calibration, "ROUNDS", 2)
    monkeypatch.setattr(
        calibration, "_time_steps", lambda data, arm: {"nce": [0.4, next(durations)]}
    )
    plain = [arm for arm in ARMS if arm.name in ("k0", "k0-fast")]
    data = AblationData(rows)
    costs = calibration.calibrate(tmp_path, data, plain)
    assert costs["k0"] == costs["k0-fast"] == {"nce": 0.2}
    assert calibration.calibrate(tmp_path, data, plain) == costs
    (tmp_path / "calibration.json").write_text(json.dumps({"k0": costs["k0"]}))
    assert calibration.calibrate(tmp_path, data, plain) == costs, (
        "an arm that was added later takes as long as the others with the same work"
    )


def test_a_stopped_ablation_continues_where_it_stopped(
    rows: Path, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that has a result is not run again. The end is a table and a plot."""
    monkeypatch.setattr(ablation_runner, "steps_within", lambda arm, cost, seconds: 2)
    out = tmp_path / "ablation"
    command = ["ablation", str(out), "--data", str(rows), "--arms", "k8", "k0", "--seeds", "1"]
    assert main(command) == 0
    files = {path: path.stat().st_mtime_ns for path in (out / "trials").iterdir()}
    assert {path.name for path in files} == {"k8.time.0.json", "k0.time.0.json", "k0.steps.0.json"}
    missing = out / "trials/k0.time.0.json"
    first = json.loads(missing.read_text())
    missing.unlink()
    assert main(command) == 0
    assert {path for path, time in files.items() if path.stat().st_mtime_ns != time} == {missing}
    again = json.loads(missing.read_text())
    assert again["losses"]["nce"] == pytest.approx(first["losses"]["nce"], rel=1e-4), (
        "the same seed gives the same trial"
    )
    monkeypatch.setattr(ablation_runner, "steps_within", lambda arm, cost, seconds: 4)
    assert main(command) == 0
    assert json.loads(missing.read_text())["steps"] == again["steps"] + 2, (
        "a trial with another number of steps is run again"
    )
    assert set(HARDEST) <= {task.name for task in TASKS} == set(again["eval"])
    assert "| k0 |" in write_report(out)
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_trial_that_fails_ends_the_ablation(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is raised, and trials that have not begun are canceled."""
    files: list[str] = []

    class OneThread(ThreadPoolExecutor):
        """A pool of one thread: processes would not see what the test replaces."""

        def __init__(self, *_: object) -> None:
            super().__init__(1)

    def work(out: Path, job: ablation_runner.Job) -> str:
        files.append(job.file)
        if len(files) == 1:
            raise TrainingError("the loss is nan")
        # time for the main thread to cancel the rest
        time.sleep(0.2)
        return job.file

    monkeypatch.setattr(ablation_runner, "ProcessPoolExecutor", OneThread)
    monkeypatch.setattr(ablation_runner, "_run_in_worker", work)
    monkeypatch.setattr(
        ablation_runner,
        "calibrate",
        lambda out, data, arms: {arm.name: {"nce": 1.0, "rec": 1.0, "both": 1.0} for arm in arms},
    )
    with pytest.raises(TrainingError, match="the loss is nan"):
        ablation_runner.run(tmp_path, rows, ARMS, 3, 2)
    assert len(files) <= 3 < len(ARMS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--arms", "k7"], "k7"),
        (["--seeds", "0"], "--seeds"),
        (["--processes", "-1"], "--processes"),
    ],
    ids=["an unknown arm", "no seeds", "no process"],
)
def test_wrong_use_is_one_line(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names what is wrong, and nothing is written."""
    assert main(["ablation", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_arm_is_wrong_use() -> None:
    """The error names the arm and the argument; the reference is always the first arm."""
    with pytest.raises(UsageError, match="`arms` names 'k7'"):
        ablation_runner.arms_of(["k7"])
    assert [arm.name for arm in ablation_runner.arms_of(["k0"])] == ["k8", "k0"]


def test_probed_rows_make_a_table(data: Path, checkpoint: Path) -> None:
    """A task without texts to decode has no L_rec, and the table has dashes in its place."""
    (find2, same2) = rows = list(probe(checkpoint, data, ("find2", "same2"), "valid"))
    assert find2.reconstruction is not None
    assert same2.reconstruction is None
    lines = table(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith(f"| find2 | {find2.figures['whole']:.3f} |")
    assert lines[3].endswith("| – | – |")
