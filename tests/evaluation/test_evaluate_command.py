"""Tests `lame-train evaluate` and `lame-train fixtures` as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from lame_training.__main__ import main
from lame_training.commands.fixtures_command import LAYOUTS
from lame_training.evaluation.select import SUITES, find_suite, open_encoder
from samples import hits

# Tasks of all three parts and of both kinds of pool; more would take minutes.
FEW = ["VOC2007", "MSCOCO_t2i", "MSR-VTT", "ViDoRe_arxivqa"]


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_the_digits_table_is_that_of_the_plain_evaluation(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table has task, hit@1, chance and queries; JSON has the same figures."""
    # `hits` uses the small evaluation, whose tie rule and reader are other code than the suite's.
    results = hits(open_encoder(checkpoint), data)
    assert evaluate(checkpoint, "--suite", "digits", "--data", data) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["task", "hit@1", "chance", "queries"]
    shown = {line.split()[0]: line.split()[1:] for line in lines}
    assert shown == {
        name: [f"{result.hit_at_1:.3f}", f"{result.chance:.3f}", str(len(result.ranks))]
        for name, result in results.items()
    }
    assert evaluate(checkpoint, "--data", data, "--split", "valid", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == set(results)
    assert set(report["sum2"]) == {"hit@1", "chance", "queries"}


def test_the_same_suite_runs_on_a_checkpoint_and_on_its_bundle(
    checkpoint: Path, exported: Path, mmeb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--against` shows what the export cost, per task; the second time no task is run."""
    options = [
        "--against",
        exported,
        "--suite",
        "mmeb-v2",
        "--data",
        mmeb,
        "--out",
        tmp_path / "out",
        "--tasks",
        *FEW,
    ]
    assert evaluate(checkpoint, *options, "--json") == 0
    compared = json.loads(capsys.readouterr().out)
    assert list(compared["tasks"]) == FEW
    assert compared["compared"] == 4
    # The tiny model has 8 queries a task, of which FP32 may turn one: 0.2 is less than two.
    for row in compared["tasks"].values():
        assert row["difference"] == pytest.approx(row["first"] - row["second"])
        assert abs(row["difference"]) < 0.2
    reports = [
        json.loads((tmp_path / "out" / name).read_text())
        for name in ("report.json", "against/report.json")
    ]
    # The second model's results go to a folder of their own, or it would replace the first's.
    assert [report["metadata"]["graph"] for report in reports] == ["pytorch", "fp32-cpu"]
    assert [report["summary"]["tasks"] for report in reports] == [
        {name: row[side] for name, row in compared["tasks"].items()} for side in ("first", "second")
    ]
    assert evaluate(checkpoint, *options) == 0
    out = capsys.readouterr().out
    assert f"{checkpoint.name} pytorch {exported.name} fp32-cpu" in " ".join(out.split())
    assert "4 tasks were finished before" in out
    # Without --against, and over the results of another model, which must not be reused.
    assert evaluate(exported, "--graph", "int8", *options[2:]) == 0
    assert "overall: " in capsys.readouterr().out


def test_failed_tasks_are_named_and_the_exit_code_says_so(
    checkpoint: Path, mmeb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed task is one line on stderr; the others are evaluated, with their skipped rows."""
    root = Path(
        shutil.copytree(mmeb, tmp_path / "mmeb", ignore=shutil.ignore_patterns("video-tasks"))
    )
    (root / "image-query/GQA/test-00000-of-00001.parquet").write_bytes(b"no parquet")
    # A missing picture costs one row of a task; a damaged table costs the task.
    (root / "image-tasks/MMEB/VOC2007/Test/0003.png").unlink()
    assert (
        evaluate(checkpoint, "--suite", "mmeb-v2", "--data", root, "--tasks", "VOC2007", "GQA") == 2
    )
    shown = capsys.readouterr()
    assert "(1 skipped)" in shown.out
    assert "VOC2007: 1 skipped queries, such as row 4" in shown.out
    assert shown.err.startswith("error: GQA was not evaluated: ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "mmeb-v2", "--data", "nowhere"], "nowhere: no such folder"),
        (["--suite", "mrmr", "--data", "."], "holds no data of suite mrmr"),
        (["--data", "."], "holds no TASK.jsonl"),
        (
            ["--suite", "mmeb-v2", "--data", "mmeb", "--tasks", "Imagenet"],
            "--tasks names Imagenet, but suite mmeb-v2 has no such task",
        ),
        (
            ["--data", "data", "--graph", "fp16"],
            "--graph is 'fp16', but CHECKPOINT is not a bundle; leave it out",
        ),
        (["--data", "data", "--against-graph", "fp16"], "needs a second bundle"),
        (["--data", "data", "--batch-size", "0"], "--batch-size is 0: use 1 to"),
        (["--data", "data", "--max-pixels", "1"], "--max-pixels is 1: use 784 to"),
        (["--data", "data", "--cache", "file/x"], "choose another --cache"),
        (["--data", "data", "--out", "file/x"], "choose another --out"),
        (["--data", "data", "--out", "file"], "choose another --out"),
    ],
)
def test_wrong_use_of_evaluate_is_one_line(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    data: Path,
    mmeb: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code is 2, and stderr has no traceback."""
    # Short relative paths stand for the shared data in the messages; nothing may be written there.
    (tmp_path / "data").symlink_to(data)
    (tmp_path / "mmeb").symlink_to(mmeb)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    # "." stands for a folder that exists and holds nothing.
    monkeypatch.chdir(tmp_path / "empty" if "." in arguments else tmp_path)
    assert evaluate(checkpoint, *arguments) == 2
    error = capsys.readouterr().err
    assert message.replace("CHECKPOINT", str(checkpoint)) in error
    assert "Traceback" not in error


@pytest.mark.parametrize("layout", ["mmeb-v2", "mrmr"])
def test_a_fixture_is_written_whole_and_never_over_another(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The suite of that name finds all tasks of the fixture; a second write is refused."""
    assert layout in LAYOUTS
    root = tmp_path / "a/b"
    assert main(["fixtures", layout, str(root)]) == 0
    assert main(["fixtures", layout, str(root)]) == 2
    assert "already exists" in capsys.readouterr().err
    # Fixtures are written under a temporary name first; none must be left.
    assert [path.name for path in root.parent.iterdir()] == ["b"]
    # All of MRMR's five tasks, and those of MMEB-V2's 78 that the fixture has a reader's rows for.
    suite = find_suite(layout, root)
    assert (
        sum(suite.present(spec, root) for spec in suite.specs) == {"mmeb-v2": 25, "mrmr": 5}[layout]
    )


def test_every_suite_is_a_choice_of_the_command() -> None:
    """The command repeats the names, so that `--help` imports no reader; the lists must agree."""
    import argparse

    from lame_training.commands import evaluate_command as command

    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    for suite in SUITES:
        assert parser.parse_args(["evaluate", "m", "--data", "d", "--suite", suite]).suite == suite


@pytest.mark.parametrize("argument", ["--output", "--cache"])
def test_result_files_do_not_land_in_a_bundle(
    argument: str,
    checkpoint: Path,
    exported: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bundle with other files is no longer the one that was exported; neither side may change."""
    before = sorted(exported.rglob("*"))
    for folder in (exported, exported / "scores"):
        assert evaluate(exported, "--data", data, argument, folder) == 2
        assert "is inside the bundle" in capsys.readouterr().err
        assert evaluate(checkpoint, "--against", exported, "--data", data, argument, folder) == 2
        assert "is inside the bundle" in capsys.readouterr().err
    assert sorted(exported.rglob("*")) == before
