"""What is wrong with the data is named, counted, and never silent; what is right beside it still counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lame_runtime import InputError
from lame_runtime.encoder import Encoder
from lame_training.suites.base import Suite
from lame_training.suites.mmeb_v2 import mmeb_v2
from lame_training.suites.mrmr import mrmr
from lame_training.suites.run import SuiteRun, run_suite

Row = dict[str, Any]


def run(suite: Suite, data: Path, encoder: Encoder, folder: Path, name: str) -> SuiteRun:
    return run_suite(suite, data, encoder, "one", cache=folder / "cache", out=folder / "out", names=[name])


def rewrite(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist())), path)


@pytest.fixture
def data(mmeb: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(mmeb, tmp_path / "mmeb", ignore=shutil.ignore_patterns("video_mret", "video_qa", "video_ret")))


@pytest.fixture
def mrmr_data(mrmr_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mrmr_root, tmp_path / "mrmr"))


def result(found: SuiteRun, name: str) -> dict[str, Any]:
    assert not found.failed
    return found.outcomes[name].result


def test_undamaged_data_skip_nothing(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """The control of all tests below."""
    for name in ("VOC2007", "CIRR", "HMDB51", "ViDoRe_arxivqa"):
        facts = result(run(mmeb_v2(), data, fake, tmp_path, name), name)["run"]
        assert facts["skipped_queries"]["count"] == facts["missing_documents"]["count"] == 0


def test_a_row_with_a_missing_picture_is_skipped_and_counted(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """num_data keeps it, num_pred does not; the reason names row and file."""
    (data / "image-tasks/MMEB/VOC2007/Test/0003.png").unlink()
    found = result(run(mmeb_v2(), data, fake, tmp_path, "VOC2007"), "VOC2007")
    assert (found["num_pred"], found["num_data"]) == (7, 8)
    assert found["run"]["skipped_queries"]["count"] == 1
    assert "row 4: the picture" in found["run"]["skipped_queries"]["first"][0]
    assert "0003.png is missing" in found["run"]["skipped_queries"]["first"][0]


def test_rows_that_rank_a_missing_picture_are_skipped(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """A smaller pool would flatter."""
    (data / "image-tasks/MMEB/CIRR/Test/0006.png").unlink()  # in every pool but the last row's
    found = result(run(mmeb_v2(), data, fake, tmp_path, "CIRR"), "CIRR")
    assert (found["num_pred"], found["run"]["skipped_queries"]["count"]) == (1, 7)
    assert found["run"]["missing_documents"]["count"] == 0


def test_a_damaged_picture_is_found_when_it_is_embedded(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """The file is there but is no picture; the other queries are embedded all the same."""
    (data / "image-tasks/MMEB/VOC2007/Test/0003.png").write_bytes(b"not a picture")
    found = result(run(mmeb_v2(), data, fake, tmp_path, "VOC2007"), "VOC2007")
    assert (found["num_pred"], found["num_data"]) == (7, 8)
    assert "0003.png" in found["run"]["skipped_queries"]["first"][0]


def test_a_page_without_a_picture_leaves_the_pool_with_its_queries(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """A global pool: the document is counted, and so is the query it was right for."""

    def lose(rows: list[Row]) -> list[Row]:
        rows[2]["image"] = {"bytes": b"no picture", "path": None}
        rows[5]["image"] = {"bytes": None, "path": None}
        return rows

    rewrite(data / "visdoc-tasks/data/arxivqa_test_subsampled_beir/corpus/test-00000-of-00001.parquet", lose)
    found = result(run(mmeb_v2(), data, fake, tmp_path, "ViDoRe_arxivqa"), "ViDoRe_arxivqa")
    assert found["run"]["documents"] == 6
    assert found["run"]["missing_documents"]["count"] == 2
    assert (found["num_pred"], found["num_data"]) == (6, 8)


def test_a_query_without_a_right_document_is_skipped(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """No judgement, or one of a page that does not exist."""

    def point_nowhere(rows: list[Row]) -> list[Row]:
        return [{**rows[1], "corpus-id": 99}, *rows[2:]]

    rewrite(data / "visdoc-tasks/data/arxivqa_test_subsampled_beir/qrels/test-00000-of-00001.parquet", point_nowhere)
    skipped = result(run(mmeb_v2(), data, fake, tmp_path, "ViDoRe_arxivqa"), "ViDoRe_arxivqa")["run"]["skipped_queries"]
    assert skipped["first"] == ["row 1: no document is right for it", "row 2: its right document 99 does not exist"]


def test_a_video_without_frames_is_skipped(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """The reason names the folder and the file that would serve."""
    shutil.rmtree(data / "video-tasks/frames/video_cls/HMDB51/clip2")
    found = result(run(mmeb_v2(), data, fake, tmp_path, "HMDB51"), "HMDB51")
    assert found["num_pred"] == 7
    assert "neither frames in" in found["run"]["skipped_queries"]["first"][0]
    assert "clip2.mp4" in found["run"]["skipped_queries"]["first"][0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "x"}, "row 1: no document is right for it"),
        ({"category": "Astrology"}, "row 1: its category 'Astrology' belongs to no sub-task"),
        ({"text": "<image 7>", "image 1": "keep"}, "row 1: its text mentions <image 7>, but that picture is missing"),
    ],
)
def test_a_row_of_mrmr_that_cannot_be_used_is_named(change: Row, reason: str, mrmr_data: Path, fake: Encoder, tmp_path: Path) -> None:
    """By what is wrong with it."""

    def spoil(rows: list[Row]) -> list[Row]:
        keep = {"image 1": rows[1]["image 1"]} if "image 1" in change else {}
        return [{**rows[0], **change, **keep}, *rows[1:]]

    rewrite(mrmr_data / "knowledge/query/test-00000-of-00001.parquet", spoil)
    found = result(run(mrmr(), mrmr_data, fake, tmp_path, "knowledge"), "knowledge")
    assert found["run"]["skipped_queries"]["first"] == [reason]


def test_an_unreadable_file_fails_its_task_and_no_other(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """By name: no parquet, a line that is no JSON, a column that is not there."""
    parquet = data / "image-query/VOC2007/test-00000-of-00001.parquet"
    parquet.write_bytes(b"PAR1 and no more")
    lines = data / "video-tasks/data/ssv2.jsonl"
    lines.write_text('{"video_id": ')
    columns = data / "image-query/GQA/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(columns).drop_columns(["tgt_text"]), columns)
    found = run_suite(mmeb_v2(), data, fake, "one", cache=tmp_path / "c", names=["VOC2007", "SmthSmthV2", "GQA", "CIRR"])
    assert list(found.outcomes) == ["CIRR"]
    assert set(found.failed) == {"VOC2007", "SmthSmthV2", "GQA"}
    for name, path in (("VOC2007", parquet), ("SmthSmthV2", lines), ("GQA", columns)):
        assert str(path) in found.failed[name]
        assert "\n" not in found.failed[name]
    assert "not a readable parquet file" in found.failed["VOC2007"]
    assert "lacks the column tgt_text" in found.failed["GQA"]


def test_one_class_is_no_classification(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """Neither a pool of one candidate nor one answer for all: any model could score 1."""
    path = data / "image-query/VOC2007/test-00000-of-00001.parquet"
    rewrite(path, lambda rows: [{**row, "tgt_text": ["one", "two"], "tgt_img_path": ["", ""]} for row in rows])
    assert "all 8 queries have the one class 'one'" in run(mmeb_v2(), data, fake, tmp_path, "VOC2007").failed["VOC2007"]
    rewrite(path, lambda rows: [{**row, "tgt_text": ["one"], "tgt_img_path": [""]} for row in rows])
    assert "every pool holds one candidate" in run(mmeb_v2(), data, fake, tmp_path, "VOC2007").failed["VOC2007"]


def test_a_task_without_a_usable_query_says_why(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """With the first reason."""
    shutil.rmtree(data / "image-tasks/MMEB/VOC2007")
    reason = run(mmeb_v2(), data, fake, tmp_path, "VOC2007").failed["VOC2007"]
    assert reason.startswith("task VOC2007: none of its 8 queries can be used; the first was skipped because row 1: the picture")


def test_a_folder_without_data_is_refused(tmp_path: Path, fake: Encoder) -> None:
    """And says what was expected."""
    with pytest.raises(InputError, match=r"holds no data of suite mrmr; expected below it: NAME/"):
        run_suite(mrmr(), tmp_path, fake, "one", cache=tmp_path / "c")


def test_another_report_in_the_folder_is_not_written_over(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """A report.json that is none of ours."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="is not a report of lame-train evaluate"):
        run(mmeb_v2(), data, fake, tmp_path, "VOC2007")
