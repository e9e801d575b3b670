"""Tests suite runs: what is embedded and cached, how a stopped run goes on, and the report."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError
from lame_training.evaluation.embedding.vector_cache import EmbeddingCache
from lame_training.evaluation.leaderboard import compare, leaderboard_report, summarize, table
from lame_training.evaluation.mmeb.mmeb_v2 import mmeb_v2
from lame_training.evaluation.runner import EvaluationOptions, SuiteRun, run_suite
from lame_training.evaluation.suites.mrmr import mrmr
from lame_training.evaluation.suites.suite import Suite

# Two image tasks, with texts and with pictures as candidates, and one with a global pool.
FEW = ["VOC2007", "MSCOCO_t2i", "ViDoRe_arxivqa"]


def run(suite: Suite, data: Path, encoder: Encoder, folder: Path, **options: Any) -> SuiteRun:
    identity = options.pop("identity", "one")
    evaluation = EvaluationOptions(cache=folder / "cache", output=folder / "out", **options)
    return run_suite(suite, data, encoder, identity, evaluation)


class Constant(FakeBackend):
    """Computes the same vector for every input."""

    def encoder(self, batch: Any, features_FD: Any) -> npt.NDArray[np.float32]:
        """Returns the first unit vector for each row."""
        return np.tile(np.eye(1, self.dim, dtype=np.float32), (len(batch.input_ids), 1))


def test_every_distinct_input_is_embedded_once(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """VOC2007 has eight pictures, and ten words that are all in eight pools."""
    suite_run = run(mmeb_v2(), mmeb, fake, tmp_path, tasks=["VOC2007"])
    assert suite_run.counts.embedded == 8 + 10
    assert suite_run.outcomes["VOC2007"].result["num_pred"] == 8


def test_a_finished_task_is_not_run_again_unless_something_changed(
    mmeb: Path, fake: Encoder, tmp_path: Path
) -> None:
    """Another pixel limit, changed data or another model run it again; nothing else does."""
    # Without the frames, which are most of the files: no task of `FEW` has videos.
    data = Path(shutil.copytree(mmeb, tmp_path / "data", ignore=shutil.ignore_patterns("frames")))
    first = run(mmeb_v2(), data, fake, tmp_path, tasks=FEW)
    again = run(mmeb_v2(), data, fake, tmp_path, tasks=FEW)
    assert again.reused == FEW
    assert again.counts.embedded == 0
    assert summarize(again)["tasks"] == summarize(first)["tasks"]
    assert run(mmeb_v2(), data, fake, tmp_path, tasks=FEW, max_pixels=28 * 28).reused == []
    # Two queries now have the same picture, so a fresh cache embeds one input less.
    shutil.copy(
        data / "image-tasks/MMEB/VOC2007/Test/0000.png",
        data / "image-tasks/MMEB/VOC2007/Test/0001.png",
    )
    changed = run(mmeb_v2(), data, fake, tmp_path / "b", tasks=FEW)
    assert changed.counts.embedded == first.counts.embedded - 1
    # The undamaged data: one task differs, and the cache lacks one of its pictures.
    changed = run(mmeb_v2(), mmeb, fake, tmp_path / "b", tasks=FEW)
    assert changed.reused == ["MSCOCO_t2i", "ViDoRe_arxivqa"]
    assert changed.counts.embedded == 1
    assert (
        run(mmeb_v2(), mmeb, fake, tmp_path / "b", tasks=FEW, identity="two").counts.embedded
        == first.counts.embedded
    )


def test_results_of_tasks_not_asked_for_are_kept(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """A report can grow task by task; another model's results do not count."""
    run(mmeb_v2(), mmeb, fake, tmp_path, tasks=["VOC2007"])
    both = run(mmeb_v2(), mmeb, fake, tmp_path, tasks=["CIRR"])
    assert list(both.outcomes) == ["VOC2007", "CIRR"]
    assert list(run(mmeb_v2(), mmeb, fake, tmp_path, tasks=["CIRR"], identity="two").outcomes) == [
        "CIRR"
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.encoder import Encoder
from lame_training.evaluation.mmeb.mmeb_v2 import mmeb_v2
from lame_training.evaluation.runner import EvaluationOptions, run_suite

class Killed(FakeBackend):
    def run(self, batch):
        if len(self.lengths) == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(batch)

model, data, folder = map(Path, sys.argv[1:])
encoder = Encoder(Preparer.load(model), Killed(), "fake")
options = EvaluationOptions(
    cache=folder / "cache",
    output=folder / "out",
    tasks=["VOC2007", "MSCOCO_t2i", "GQA"],
    batch_size=1,
)
run_suite(mmeb_v2(), data, encoder, "one", options)
"""
"""A script that kills its own process after 30 inputs."""


def test_a_killed_run_goes_on_and_loses_at_most_a_shard(
    mmeb: Path, preparer: Preparer, tokenizer_file: Path, tmp_path: Path
) -> None:
    """After SIGKILL a second run embeds the rest, with the figures of a run never stopped."""
    # The process that is killed needs the encoder's parts on disk.
    (tmp_path / "model").mkdir()
    (tmp_path / "model/contract.json").write_text(preparer.contract.to_json())
    shutil.copy(tokenizer_file, tmp_path / "model/tokenizer.json")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "model"), str(mmeb), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    names = ["VOC2007", "MSCOCO_t2i", "GQA"]
    backend = FakeBackend()
    rest = run(
        mmeb_v2(), mmeb, Encoder(preparer, backend, "fake"), tmp_path, tasks=names, batch_size=1
    )
    whole = run(
        mmeb_v2(),
        mmeb,
        Encoder(preparer, FakeBackend(), "fake"),
        tmp_path / "whole",
        tasks=names,
        batch_size=1,
    )
    # VOC2007 has 18 inputs, so the process was killed in the second task.
    assert rest.reused == ["VOC2007"]
    from_shards = whole.counts.embedded - len(backend.lengths)
    # A shard is 16 batches, here of one input each.
    assert 30 - 16 <= from_shards < 30
    assert rest.counts.embedded == len(backend.lengths)
    assert summarize(rest)["tasks"] == summarize(whole)["tasks"]
    # A temporary file may be left, but none that looks like a shard with content.
    assert not [path for path in tmp_path.rglob(".*.npz.*") if path.stat().st_size]


def test_a_damaged_shard_is_embedded_again(
    mmeb: Path, fake: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning names the shard."""
    first = run(mmeb_v2(), mmeb, fake, tmp_path, tasks=["VOC2007"])
    shards = sorted((tmp_path / "cache/embeddings/one").iterdir())
    # The index of an .npz file is at its end, so a truncated one cannot be opened at all.
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    # Without results, so that the task is run again and only the cache can save work.
    shutil.rmtree(tmp_path / "out")
    again = run(mmeb_v2(), mmeb, fake, tmp_path, tasks=["VOC2007"])
    assert 0 < again.counts.embedded < first.counts.embedded
    assert summarize(again)["tasks"] == summarize(first)["tasks"]
    assert str(shards[0]) in capsys.readouterr().err


def test_a_cache_gives_back_what_was_put_in(tmp_path: Path) -> None:
    """Vectors come back in any order, from several shards, also after the cache is reopened."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, 4)).astype(np.float32)
    cache = EmbeddingCache(tmp_path / "c")
    keys = [f"{number:064}" for number in range(6)]
    cache.put(keys[:4], vectors[:4], np.array([False, True, False, False]))
    cache.put(keys[4:], vectors[4:], np.zeros(2, dtype=bool))
    for opened in (cache, EmbeddingCache(tmp_path / "c")):
        assert np.array_equal(opened.get([keys[5], keys[0], keys[3]]), vectors[[5, 0, 3]])
        assert [opened.was_cut(key) for key in keys[:2]] == [False, True]
        assert "x" * 64 not in opened


def test_tasks_that_are_missing_are_counted_not_averaged(
    mmeb: Path, fake: Encoder, tmp_path: Path
) -> None:
    """The overall figure is the mean of tasks, not of parts, and says of how many tasks."""
    summary = summarize(run(mmeb_v2(), mmeb, fake, tmp_path, tasks=[*FEW, "GQA"]))
    figures = summary["tasks"]
    assert summary["overall"] == {
        "score": pytest.approx(np.mean(list(figures.values()))),
        "tasks": 4,
        "of": 78,
    }
    parts = [mean["score"] for mean in summary["groups"].values() if mean["score"] is not None]
    assert summary["groups"]["image"]["tasks"] == 3
    assert summary["groups"]["video"] == {"score": None, "tasks": 0, "of": 18}
    # The control: with three image tasks and one other the two means differ.
    assert summary["overall"]["score"] != pytest.approx(np.mean(parts))
    # 78 tasks, of which four were selected: those without data and the rest count alike.
    assert len(summary["missing"]) == 74


def test_the_report_has_the_leaderboards_form(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """It has metadata and, by part and task, 24 figures with `num_pred` and `num_data`.

    A task without a result is the text FILE_N/A.
    """
    report = leaderboard_report(run(mmeb_v2(), mmeb, fake, tmp_path, tasks=FEW), fake, "ours")
    assert {
        "model_name",
        "embedding_dimension",
        "max_length_tokens",
        "data_source",
        "report_generated_date",
    } <= set(report["metadata"])
    assert report["metadata"]["visdoc_convention"] == "page-fixed"
    assert {group: len(tasks) for group, tasks in report["metrics"].items()} == {
        "image": 36,
        "video": 18,
        "visdoc": 24,
    }
    assert report["metrics"]["video"]["K700"] == "FILE_N/A"
    result = report["metrics"]["visdoc"]["ViDoRe_arxivqa"]
    assert (result["num_pred"], result["num_data"]) == (8, 8)
    assert len([name for name in result if "@" in name]) == 24
    written = json.loads((tmp_path / "out/visdoc/ViDoRe_arxivqa_score.json").read_text())
    assert written == result


def test_results_of_two_conventions_never_meet(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """Neither a folder of results nor a comparison mixes them."""
    first = run(mmeb_v2(), mmeb, fake, tmp_path, tasks=["VOC2007"])
    (tmp_path / "out/report.json").write_text(json.dumps(leaderboard_report(first, fake, "ours")))
    # VOC2007 is the same task in both; it is the folder that must not hold both.
    other = mmeb_v2("page-original")
    with pytest.raises(
        UsageError, match="page-fixed, which are never put together with mmeb-v2 page-original"
    ):
        run(other, mmeb, fake, tmp_path, tasks=["VOC2007"])
    second = run(other, mmeb, fake, tmp_path / "b", tasks=["VOC2007"])
    with pytest.raises(UsageError, match="never compared"):
        compare(first, second)
    again = run(mmeb_v2(), mmeb, fake, tmp_path, tasks=["VOC2007"])
    assert compare(first, again)["mean"]["difference"] == 0


def test_a_constant_encoder_scores_nothing(
    mmeb: Path, mrmr_root: Path, preparer: Preparer, tmp_path: Path
) -> None:
    """On every task ties go against the relevant documents, even if two pages are one picture."""
    encoder = Encoder(preparer, Constant(), "constant")
    for suite, data, names in (
        (mmeb_v2(), mmeb, [*FEW, "HMDB51", "QVHighlight"]),
        (mrmr(), mrmr_root, None),
    ):
        suite_run = run(suite, data, encoder, tmp_path / suite.name, tasks=names)
        assert not suite_run.failed
        assert all(task.result["hit@1"] == 0 for task in suite_run.outcomes.values())


def test_mrmrs_sub_tasks_are_averaged(mrmr_root: Path, fake: Encoder, tmp_path: Path) -> None:
    """There are eleven, of which knowledge and theorem have four each."""
    suite_run = run(mrmr(), mrmr_root, fake, tmp_path)
    summary = summarize(suite_run)
    assert summary["overall"]["tasks"] == summary["overall"]["of"] == 11
    assert summary["groups"]["knowledge"]["of"] == 4
    assert summary["overall"]["score"] == pytest.approx(np.mean(list(summary["tasks"].values())))
    lines = table(suite_run)
    # A header and eleven sub-tasks.
    assert len(lines) == 12
    assert all(len(line) == len(line.rstrip()) for line in lines)


def test_texts_that_are_too_long_are_cut_and_counted(
    mrmr_root: Path, fake: Encoder, tmp_path: Path
) -> None:
    """The count is the same if the embedding comes from the cache."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = Path(shutil.copytree(mrmr_root, tmp_path / "mrmr"))
    path = root / "design/corpus/test-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    # At least 8,000 tokens, more than the contract's limit.
    rows[0]["text"] = "digits and more digits " * 2000
    pq.write_table(pa.Table.from_pylist(rows), path)
    for embedded in (True, False):
        # The result is removed, so that the second run comes from the cache and not from a file.
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        suite_run = run(mrmr(), root, fake, tmp_path, tasks=["design"])
        assert suite_run.outcomes["design"].result["run"]["cut_texts"] == 1
        assert (suite_run.counts.embedded > 0) == embedded
