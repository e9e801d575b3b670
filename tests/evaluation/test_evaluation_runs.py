"""A suite run: what is embedded, what is kept, what a stopped run goes on with, and the report."""

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
from lame_runtime import InputError
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.encoder import Encoder
from lame_training.suites.base import Suite
from lame_training.suites.cache import EmbeddingCache
from lame_training.suites.mmeb_v2 import mmeb_v2
from lame_training.suites.mrmr import mrmr
from lame_training.suites.report import compare, leaderboard_report, summarise, table
from lame_training.suites.run import SuiteRun, run_suite

FEW = ["VOC2007", "MSCOCO_t2i", "ViDoRe_arxivqa"]


def run(suite: Suite, data: Path, encoder: Encoder, folder: Path, **options: Any) -> SuiteRun:
    return run_suite(suite, data, encoder, options.pop("identity", "one"), cache=folder / "cache", out=folder / "out", **options)


class Constant(FakeBackend):
    """Says the same about everything."""

    def encoder(self, batch: Any, features_FD: Any) -> npt.NDArray[np.float32]:
        """One vector for all."""
        return np.tile(np.eye(1, self.dim, dtype=np.float32), (len(batch.input_ids), 1))


def test_every_distinct_input_is_embedded_once(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """VOC2007's ten words stand in eight pools."""
    found = run(mmeb_v2(), mmeb, fake, tmp_path, names=["VOC2007"])
    assert found.counts.embedded == 8 + 10
    assert found.outcomes["VOC2007"].result["num_pred"] == 8


def test_a_finished_task_is_not_run_again_unless_something_changed(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """The same model, data and budget: nothing is embedded; another budget, changed data or another model: it is."""
    data = Path(shutil.copytree(mmeb, tmp_path / "data", ignore=shutil.ignore_patterns("frames")))
    first = run(mmeb_v2(), data, fake, tmp_path, names=FEW)
    again = run(mmeb_v2(), data, fake, tmp_path, names=FEW)
    assert again.reused == FEW
    assert again.counts.embedded == 0
    assert summarise(again)["tasks"] == summarise(first)["tasks"]
    assert run(mmeb_v2(), data, fake, tmp_path, names=FEW, max_pixels=28 * 28).reused == []
    shutil.copy(data / "image-tasks/MMEB/VOC2007/Test/0000.png", data / "image-tasks/MMEB/VOC2007/Test/0001.png")
    changed = run(mmeb_v2(), data, fake, tmp_path / "b", names=FEW)
    assert changed.counts.embedded == first.counts.embedded - 1
    changed = run(mmeb_v2(), mmeb, fake, tmp_path / "b", names=FEW)
    assert changed.reused == ["MSCOCO_t2i", "ViDoRe_arxivqa"]
    assert changed.counts.embedded == 1
    assert run(mmeb_v2(), mmeb, fake, tmp_path / "b", names=FEW, identity="two").counts.embedded == first.counts.embedded


def test_results_of_tasks_not_asked_for_are_kept(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """The report grows task by task; another model's results do not count."""
    run(mmeb_v2(), mmeb, fake, tmp_path, names=["VOC2007"])
    both = run(mmeb_v2(), mmeb, fake, tmp_path, names=["CIRR"])
    assert list(both.outcomes) == ["VOC2007", "CIRR"]
    assert list(run(mmeb_v2(), mmeb, fake, tmp_path, names=["CIRR"], identity="two").outcomes) == ["CIRR"]


KILLED = """
import os, signal, sys
from pathlib import Path
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.encoder import Encoder
from lame_training.suites.mmeb_v2 import mmeb_v2
from lame_training.suites.run import run_suite

class Killed(FakeBackend):
    def run(self, batch):
        if len(self.lengths) == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(batch)

model, data, folder = map(Path, sys.argv[1:])
encoder = Encoder(Preparer.load(model), Killed(), "fake")
run_suite(mmeb_v2(), data, encoder, "one", cache=folder / "cache", out=folder / "out", names=["VOC2007", "MSCOCO_t2i", "GQA"], batch_size=1)
"""


def test_a_killed_run_goes_on_and_loses_at_most_a_shard(mmeb: Path, preparer: Preparer, tokenizer_file: Path, tmp_path: Path) -> None:
    """Kill -9 in the middle; the second run embeds the rest, and its figures are those of a run that was never stopped."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/contract.json").write_text(preparer.contract.to_json())
    shutil.copy(tokenizer_file, tmp_path / "model/tokenizer.json")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "model"), str(mmeb), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    names = ["VOC2007", "MSCOCO_t2i", "GQA"]
    backend = FakeBackend()
    rest = run(mmeb_v2(), mmeb, Encoder(preparer, backend, "fake"), tmp_path, names=names, batch_size=1)
    whole = run(mmeb_v2(), mmeb, Encoder(preparer, FakeBackend(), "fake"), tmp_path / "whole", names=names, batch_size=1)
    assert rest.reused == ["VOC2007"]
    kept = whole.counts.embedded - len(backend.lengths)
    assert 30 - 16 <= kept < 30
    assert rest.counts.embedded == len(backend.lengths)
    assert summarise(rest)["tasks"] == summarise(whole)["tasks"]
    assert not [path for path in tmp_path.rglob(".*.npz.*") if path.stat().st_size]


def test_a_damaged_shard_is_embedded_again(mmeb: Path, fake: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And named on stderr."""
    first = run(mmeb_v2(), mmeb, fake, tmp_path, names=["VOC2007"])
    shards = sorted((tmp_path / "cache/embeddings/one").iterdir())
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    shutil.rmtree(tmp_path / "out")
    again = run(mmeb_v2(), mmeb, fake, tmp_path, names=["VOC2007"])
    assert 0 < again.counts.embedded < first.counts.embedded
    assert summarise(again)["tasks"] == summarise(first)["tasks"]
    assert str(shards[0]) in capsys.readouterr().err


def test_a_cache_gives_back_what_was_put_in(tmp_path: Path) -> None:
    """In any order, from several shards, after opening anew."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, 4)).astype(np.float32)
    cache = EmbeddingCache(tmp_path / "c")
    keys = [f"{number:064}" for number in range(6)]
    cache.put(keys[:4], vectors[:4], np.array([False, True, False, False]))
    cache.put(keys[4:], vectors[4:], np.zeros(2, dtype=bool))
    for each in (cache, EmbeddingCache(tmp_path / "c")):
        assert np.array_equal(each.get([keys[5], keys[0], keys[3]]), vectors[[5, 0, 3]])
        assert [each.was_cut(key) for key in keys[:2]] == [False, True]
        assert "x" * 64 not in each


def test_tasks_that_are_missing_are_counted_not_averaged(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """The overall figure is the mean of tasks, not of parts, and says of how many."""
    found = run(mmeb_v2(), mmeb, fake, tmp_path, names=[*FEW, "GQA"])
    summary = summarise(found)
    figures = summary["tasks"]
    assert summary["overall"] == {"score": pytest.approx(np.mean(list(figures.values()))), "tasks": 4, "of": 78}
    parts = [mean["score"] for mean in summary["groups"].values() if mean["score"] is not None]
    assert summary["groups"]["image"]["tasks"] == 3
    assert summary["groups"]["video"] == {"score": None, "tasks": 0, "of": 18}
    assert summary["overall"]["score"] != pytest.approx(np.mean(parts))
    assert len(summary["missing"]) == 74


def test_the_report_has_the_leaderboards_form(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """Metadata, and per part and task the 24 figures with num_pred and num_data; a task without a result is FILE_N/A."""
    report = leaderboard_report(run(mmeb_v2(), mmeb, fake, tmp_path, names=FEW), fake, "ours")
    assert {"model_name", "embedding_dimension", "max_length_tokens", "data_source", "report_generated_date"} <= set(report["metadata"])
    assert report["metadata"]["visdoc_convention"] == "page-fixed"
    assert {group: len(tasks) for group, tasks in report["metrics"].items()} == {"image": 36, "video": 18, "visdoc": 24}
    assert report["metrics"]["video"]["K700"] == "FILE_N/A"
    result = report["metrics"]["visdoc"]["ViDoRe_arxivqa"]
    assert (result["num_pred"], result["num_data"]) == (8, 8)
    assert len([name for name in result if "@" in name]) == 24
    written = json.loads((tmp_path / "out/visdoc/ViDoRe_arxivqa_score.json").read_text())
    assert written == result


def test_results_of_two_conventions_never_meet(mmeb: Path, fake: Encoder, tmp_path: Path) -> None:
    """Neither in one folder nor in a comparison; nor those of two suites."""
    first = run(mmeb_v2(), mmeb, fake, tmp_path, names=["VOC2007"])
    (tmp_path / "out/report.json").write_text(json.dumps(leaderboard_report(first, fake, "ours")))
    other = mmeb_v2("page-original")
    with pytest.raises(InputError, match="page-fixed, which are never put together with mmeb-v2 page-original"):
        run(other, mmeb, fake, tmp_path, names=["VOC2007"])
    second = run(other, mmeb, fake, tmp_path / "b", names=["VOC2007"])
    with pytest.raises(InputError, match="never compared"):
        compare(first, second)
    assert compare(first, run(mmeb_v2(), mmeb, fake, tmp_path, names=["VOC2007"]))["mean"]["difference"] == 0


def test_a_constant_encoder_scores_nothing(mmeb: Path, mrmr_root: Path, preparer: Preparer, tmp_path: Path) -> None:
    """On any task: ties go against the right document, also where two pages are the same picture."""
    encoder = Encoder(preparer, Constant(), "constant")
    for suite, data, names in ((mmeb_v2(), mmeb, [*FEW, "HMDB51", "QVHighlight"]), (mrmr(), mrmr_root, None)):
        found = run(suite, data, encoder, tmp_path / suite.name, names=names)
        assert not found.failed
        assert all(outcome.result["hit@1"] == 0 for outcome in found.outcomes.values())


def test_mrmrs_sub_tasks_are_averaged(mrmr_root: Path, fake: Encoder, tmp_path: Path) -> None:
    """Eleven, of which knowledge and theorem give four each."""
    found = run(mrmr(), mrmr_root, fake, tmp_path)
    summary = summarise(found)
    assert summary["overall"]["tasks"] == summary["overall"]["of"] == 11
    assert summary["groups"]["knowledge"]["of"] == 4
    assert summary["overall"]["score"] == pytest.approx(np.mean(list(summary["tasks"].values())))
    lines = table(found)
    assert len(lines) == 12
    assert all(len(line) == len(line.rstrip()) for line in lines)


def test_texts_that_are_too_long_are_cut_and_counted(mrmr_root: Path, fake: Encoder, tmp_path: Path) -> None:
    """Also where the embedding came from the cache."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = Path(shutil.copytree(mrmr_root, tmp_path / "mrmr"))
    path = root / "design/corpus/test-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["text"] = "digits and more digits " * 2000
    pq.write_table(pa.Table.from_pylist(rows), path)
    for embedded in (True, False):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        found = run(mrmr(), root, fake, tmp_path, names=["design"])
        assert found.outcomes["design"].result["run"]["cut_texts"] == 1
        assert (found.counts.embedded > 0) == embedded
