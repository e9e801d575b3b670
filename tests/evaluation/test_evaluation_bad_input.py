"""Tests suites on damaged data.

Whatever is unusable is named and counted, and whatever is usable beside it is still evaluated.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lame_runtime.encoder import Encoder
from lame_runtime.errors import StorageError
from lame_training.evaluation.mmeb.mmeb_v2 import mmeb_v2
from lame_training.evaluation.runner import EvaluationOptions, SuiteRun, run_suite
from lame_training.evaluation.suites.mrmr import mrmr
from lame_training.evaluation.suites.suite import Suite
from lame_training.evaluation.suites.tables import TableRow


# The runs of a test share cache and results, as those of a user do.
def run(suite: Suite, data: Path, encoder: Encoder, folder: Path, *names: str) -> SuiteRun:
    options = EvaluationOptions(cache=folder / "cache", output=folder / "out", tasks=names)
    return run_suite(suite, data, encoder, "one", options)


def rewrite(path: Path, change: Callable[[list[TableRow]], list[TableRow]]) -> None:
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist())), path)


@pytest.fixture
def data(mmeb: Path, tmp_path: Path) -> Path:
    """Returns a copy of MMEB-V2's layout that a test may damage."""
    return Path(
        shutil.copytree(
            mmeb,
            tmp_path / "mmeb",
            # The frames of these parts are most of the files, and no test here needs them.
            ignore=shutil.ignore_patterns("video_mret", "video_qa", "video_ret"),
        )
    )


@pytest.fixture
def mrmr_data(mrmr_root: Path, tmp_path: Path) -> Path:
    """Returns a copy of MRMR's layout that a test may damage."""
    return Path(shutil.copytree(mrmr_root, tmp_path / "mrmr"))


def result(suite_run: SuiteRun, name: str) -> dict[str, Any]:
    assert not suite_run.failed
    return suite_run.outcomes[name].result


def test_undamaged_data_skip_nothing(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """This is the control of all tests below."""
    for name in ("VOC2007", "CIRR", "HMDB51", "ViDoRe_arxivqa"):
        # One task for each reader that the tests below damage.
        facts = result(run(mmeb_v2(), data, fake, tmp_path, name), name)["run"]
        assert facts["skipped_queries"]["count"] == facts["missing_documents"]["count"] == 0


def test_a_row_with_a_missing_picture_is_skipped_and_counted(
    data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """`num_data` counts the row, `num_pred` does not; the reason names row and file."""
    (data / "image-tasks/MMEB/VOC2007/Test/0003.png").unlink()
    task = result(run(mmeb_v2(), data, fake, tmp_path, "VOC2007"), "VOC2007")
    assert (task["num_pred"], task["num_data"]) == (7, 8)
    assert task["run"]["skipped_queries"]["count"] == 1
    assert "row 4: the picture" in task["run"]["skipped_queries"]["first"][0]
    assert "0003.png is missing" in task["run"]["skipped_queries"]["first"][0]


def test_rows_that_rank_a_missing_picture_are_skipped(
    data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """Ranking a smaller pool would be easier, so the row is not evaluated at all."""
    # This picture is in every pool but the last row's.
    (data / "image-tasks/MMEB/CIRR/Test/0006.png").unlink()
    task = result(run(mmeb_v2(), data, fake, tmp_path, "CIRR"), "CIRR")
    assert (task["num_pred"], task["run"]["skipped_queries"]["count"]) == (1, 7)
    assert task["run"]["missing_documents"]["count"] == 0


def test_a_damaged_picture_is_found_when_it_is_embedded(
    data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """The file exists but holds no picture; the other queries are embedded all the same."""
    (data / "image-tasks/MMEB/VOC2007/Test/0003.png").write_bytes(b"not a picture")
    task = result(run(mmeb_v2(), data, fake, tmp_path, "VOC2007"), "VOC2007")
    assert (task["num_pred"], task["num_data"]) == (7, 8)
    assert "0003.png" in task["run"]["skipped_queries"]["first"][0]


def test_a_page_without_a_picture_leaves_the_pool_with_its_queries(
    data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """In a global pool a lost page is counted, and so is the query that it was relevant for."""

    def lose(rows: list[TableRow]) -> list[TableRow]:
        # The first is found when it is embedded, the second when it is read.
        rows[2]["image"] = {"bytes": b"no picture", "path": None}
        rows[5]["image"] = {"bytes": None, "path": None}
        return rows

    rewrite(
        data / "visdoc-tasks/data/arxivqa_test_subsampled_beir/corpus/test-00000-of-00001.parquet",
        lose,
    )
    task = result(run(mmeb_v2(), data, fake, tmp_path, "ViDoRe_arxivqa"), "ViDoRe_arxivqa")
    # Two of eight pages are gone, and with each the one query that has it as its relevant page.
    assert task["run"]["documents"] == 6
    assert task["run"]["missing_documents"]["count"] == 2
    assert (task["num_pred"], task["num_data"]) == (6, 8)


def test_a_query_without_a_right_document_is_skipped(
    data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """A query has no judgment, or one for a page that does not exist."""

    def point_nowhere(rows: list[TableRow]) -> list[TableRow]:
        # The first judgment is gone, the second points to a page that does not exist.
        return [{**rows[1], "corpus-id": 99}, *rows[2:]]

    rewrite(
        data / "visdoc-tasks/data/arxivqa_test_subsampled_beir/qrels/test-00000-of-00001.parquet",
        point_nowhere,
    )
    task = result(run(mmeb_v2(), data, fake, tmp_path, "ViDoRe_arxivqa"), "ViDoRe_arxivqa")
    assert task["run"]["skipped_queries"]["first"] == [
        "row 1: no document is right for it",
        "row 2: its right document 99 does not exist",
    ]


def test_a_video_without_frames_is_skipped(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """The reason names the folder of frames, and the video file that could replace it."""
    # The fixture has no video files, so nothing can replace the frames.
    shutil.rmtree(data / "video-tasks/frames/video_cls/HMDB51/clip2")
    task = result(run(mmeb_v2(), data, fake, tmp_path, "HMDB51"), "HMDB51")
    assert task["num_pred"] == 7
    assert "neither frames in" in task["run"]["skipped_queries"]["first"][0]
    assert "clip2.mp4" in task["run"]["skipped_queries"]["first"][0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "x"}, "row 1: no document is right for it"),
        ({"category": "Astrology"}, "row 1: its category 'Astrology' belongs to no sub-task"),
        (
            {"text": "<image 7>", "image 1": "keep"},
            "row 1: its text mentions <image 7>, but that picture is missing",
        ),
    ],
)
def test_a_row_of_mrmr_that_cannot_be_used_is_named(
    change: TableRow, reason: str, mrmr_data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """The reason says what is wrong with the row."""

    def spoil(rows: list[TableRow]) -> list[TableRow]:
        # A mark is text in a row without pictures, so that case borrows the next row's picture.
        keep = {"image 1": rows[1]["image 1"]} if "image 1" in change else {}
        return [{**rows[0], **change, **keep}, *rows[1:]]

    rewrite(mrmr_data / "knowledge/query/test-00000-of-00001.parquet", spoil)
    task = result(run(mrmr(), mrmr_data, fake, tmp_path, "knowledge"), "knowledge")
    assert task["run"]["skipped_queries"]["first"] == [reason]


def test_an_unreadable_file_fails_its_task_and_no_other(
    data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """The reason names the file: not parquet, not JSON, or without a column."""
    parquet = data / "image-query/VOC2007/test-00000-of-00001.parquet"
    # It begins like a parquet file, so its name and magic bytes are not what gives it away.
    parquet.write_bytes(b"PAR1 and no more")
    lines = data / "video-tasks/data/ssv2.jsonl"
    lines.write_text('{"video_id": ')
    columns = data / "image-query/GQA/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(columns).drop_columns(["tgt_text"]), columns)
    suite_run = run(mmeb_v2(), data, fake, tmp_path, "VOC2007", "SmthSmthV2", "GQA", "CIRR")
    assert list(suite_run.outcomes) == ["CIRR"]
    assert set(suite_run.failed) == {"VOC2007", "SmthSmthV2", "GQA"}
    for name, path in (("VOC2007", parquet), ("SmthSmthV2", lines), ("GQA", columns)):
        assert str(path) in suite_run.failed[name]
        assert "\n" not in suite_run.failed[name]
    assert "not a readable parquet file" in suite_run.failed["VOC2007"]
    assert "lacks the column tgt_text" in suite_run.failed["GQA"]


def test_one_class_is_no_classification(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """Data on which any model scores 1 are refused: one class for all, or one candidate each."""
    path = data / "image-query/VOC2007/test-00000-of-00001.parquet"
    # Every row now says that the class is "one".
    rewrite(
        path,
        lambda rows: [
            {**row, "tgt_text": ["one", "two"], "tgt_img_path": ["", ""]} for row in rows
        ],
    )
    assert (
        "all 8 queries have the one class 'one'"
        in run(mmeb_v2(), data, fake, tmp_path, "VOC2007").failed["VOC2007"]
    )
    rewrite(path, lambda rows: [{**row, "tgt_text": ["one"], "tgt_img_path": [""]} for row in rows])
    assert (
        "every pool holds one candidate"
        in run(mmeb_v2(), data, fake, tmp_path, "VOC2007").failed["VOC2007"]
    )


def test_a_task_without_a_usable_query_says_why(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """The message quotes the first reason."""
    # All pictures are gone, so every row is skipped while it is read.
    shutil.rmtree(data / "image-tasks/MMEB/VOC2007")
    reason = run(mmeb_v2(), data, fake, tmp_path, "VOC2007").failed["VOC2007"]
    assert reason.startswith(
        "task VOC2007: none of its 8 queries can be used; "
        "the first was skipped because row 1: the picture"
    )


def test_a_folder_without_data_is_refused(tmp_path: Path, fake: Encoder) -> None:
    """The message says what was expected."""
    message = r"holds no data of suite mrmr; expected below it: NAME/"
    with pytest.raises(StorageError, match=message):
        run_suite(mrmr(), tmp_path, fake, "one", EvaluationOptions(cache=tmp_path / "c"))


def test_another_report_in_the_folder_is_not_written_over(
    data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """A `report.json` of something else is refused, not replaced."""
    # Valid JSON, so only its content shows that it is something else.
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.json").write_text(json.dumps([1]))
    with pytest.raises(StorageError, match="is not a report of lame-train evaluate"):
        run(mmeb_v2(), data, fake, tmp_path, "VOC2007")
