"""Tests what the suites read from the published layouts: tasks, queries and pools."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from pathlib import Path

import pytest
from lame_runtime.contract.prompts import Picture, Video
from lame_training.evaluation.mmeb import image_tasks
from lame_training.evaluation.mmeb.mmeb_v2 import mmeb_v2
from lame_training.evaluation.mmeb.video_labels import classes
from lame_training.evaluation.suites.mrmr import mrmr
from lame_training.evaluation.suites.picture_store import PictureStore
from lame_training.evaluation.suites.suite import Suite, Task
from PIL import Image
from samples import write_video

BOTH = ("page-fixed", "page-original")


@pytest.fixture
def store(tmp_path: Path) -> PictureStore:
    return PictureStore(tmp_path / "pictures")


def read(suite: Suite, name: str, root: Path, store: PictureStore) -> Task:
    (spec,) = suite.select([name])
    return suite.read(spec, root, store)


def test_mmeb_v2_has_its_78_tasks() -> None:
    """There are 36 image, 18 video and 24 visual-document tasks, each with metric and pool."""
    specs = mmeb_v2().specs
    assert Counter(spec.group for spec in specs) == {"image": 36, "video": 18, "visdoc": 24}
    assert len({spec.name for spec in specs}) == 78
    assert Counter(spec.pool_scope for spec in specs if spec.group == "video") == {
        "local": 9,
        "global": 9,
    }
    assert {(spec.group, spec.pool_scope) for spec in specs if spec.group != "video"} == {
        ("image", "local"),
        ("visdoc", "global"),
    }
    assert {(spec.group, spec.metric) for spec in specs} == {
        ("image", "hit@1"),
        ("video", "hit@1"),
        ("visdoc", "ndcg_linear@5"),
    }


def test_mrmr_averages_eleven_sub_tasks() -> None:
    """All count nDCG@10, except negation: hit@1 over a query's own pool."""
    specs = mrmr().specs
    assert sum(len(spec.counted) for spec in specs) == 11
    assert {spec.name: spec.metric for spec in specs if spec.metric != "ndcg_linear@10"} == {
        "negation": "hit@1"
    }
    assert [spec.name for spec in specs if spec.pool_scope == "local"] == ["negation"]


def test_the_two_page_conventions_read_other_files_under_other_names(
    mmeb: Path, store: PictureStore
) -> None:
    """Only the two page-level tasks differ."""
    fixed, original = ({spec.name for spec in mmeb_v2(convention).specs} for convention in BOTH)
    assert fixed ^ original == {
        "ViDoSeek-page",
        "MMLongBench-page",
        "ViDoSeek-page-fixed",
        "MMLongBench-page-fixed",
    }
    # The fixture's original release is shifted by one page.
    right = [
        [query.relevance for query in read(mmeb_v2(convention), name, mmeb, store).queries]
        for convention, name in zip(BOTH, ("ViDoSeek-page-fixed", "ViDoSeek-page"), strict=True)
    ]
    assert right[0][0] != right[1][0]


def test_the_classes_are_all_there() -> None:
    """Classes that no test video shows are candidates as well."""
    assert {name: len(classes(name)) for name in ("Breakfast", "HMDB51", "UCF101", "K700")} == {
        "Breakfast": 10,
        "HMDB51": 51,
        "UCF101": 101,
        "K700": 700,
    }


@pytest.mark.parametrize(
    "name", ["VOC2007", "GQA", "MSCOCO_i2t", "MSCOCO_t2i", "CIRR", "RefCOCO-Matching"]
)
def test_an_image_row_is_a_query_with_its_own_pool(
    name: str, mmeb: Path, store: PictureStore
) -> None:
    """Candidate 0 is right, no candidate comes twice, and no text has the picture's placeholder."""
    task = read(mmeb_v2(), name, mmeb, store)
    assert len(task.queries) == task.rows == 8
    for query in task.queries:
        assert query.pool is not None
        assert list(query.relevance) == [query.pool[0]]
        assert len(set(query.pool)) == len(query.pool)
        modalities = {"MSCOCO_t2i": "text", "RefCOCO-Matching": "image+text"}
        assert query.input.modality == modalities.get(name, "image")
    # The placeholder marks a picture's place for models that need one; here it would be read.
    texts = [
        part for item in task.documents.values() for part in item.parts if isinstance(part, str)
    ]
    assert not any(
        "<|image_1|>" in text
        for text in [*texts, *(query.input.instruction or "" for query in task.queries)]
    )
    kinds = {item.modality for item in task.documents.values()}
    assert kinds == {
        "VOC2007": {"text"},
        "GQA": {"text"},
        "MSCOCO_i2t": {"text"},
        "RefCOCO-Matching": {"image+text"},
    }.get(name, {"image"})


def test_objects_of_one_picture_are_told_apart_by_their_text(
    mmeb: Path, store: PictureStore
) -> None:
    """In RefCOCO-Matching a candidate's name is path and text, without quotation marks."""
    task = read(mmeb_v2(), "RefCOCO-Matching", mmeb, store)
    # The fixture's first two candidates are objects of one picture.
    first, second, _ = task.queries[0].pool or ()
    assert first.split(":")[0] == second.split(":")[0]
    assert '"' not in first


VIDEO_QUERIES = {
    "QVHighlight": {"video+text"},
    "MomentSeeker": {"text", "image+text", "video+text"},
    "SmthSmthV2": {"video"},
    "HMDB51": {"video"},
}
TEXT_QUERIES = ("MSR-VTT", "MSVD", "DiDeMo", "VATEX", "YouCook2")
QUESTIONS = {"MVBench": 3, "Video-MME": 4, "NExTQA": 5, "EgoSchema": 5, "ActivityNetQA": 2}


@pytest.mark.parametrize("name", [*VIDEO_QUERIES, *TEXT_QUERIES, *QUESTIONS])
def test_a_video_row_asks_about_eight_frames(name: str, mmeb: Path, store: PictureStore) -> None:
    """The frames are spread evenly over those saved, in queries as in documents."""
    task = read(mmeb_v2(), name, mmeb, store)
    assert (len(task.queries), task.rows, task.skipped) == (8, 8, [])
    modalities = {query.input.modality for query in task.queries}
    assert modalities == VIDEO_QUERIES.get(
        name, {"text"} if name in TEXT_QUERIES else {"video+text"}
    )
    videos = [
        part
        for item in [*task.documents.values(), *(query.input for query in task.queries)]
        for part in item.parts
    ]
    frames = [
        Path(str(frame)).name for part in videos if isinstance(part, Video) for frame in part.source
    ]
    # The fixture saves ten frames, of which 5 and 9 fall between eight evenly spread ones.
    assert set(frames) == {f"frame_{number:04d}.jpg" for number in (1, 2, 3, 4, 6, 7, 8, 10)}
    pools = {None if query.pool is None else len(query.pool) for query in task.queries}
    expected = {"QVHighlight": {4}, "MomentSeeker": {2}, "SmthSmthV2": {4}}.get(
        name, {QUESTIONS.get(name)}
    )
    assert pools == expected
    # The fixture's four digit words are labels that the class list lacks.
    if name == "HMDB51":
        assert len(task.documents) == 51 + 4


def test_options_are_embedded_without_their_letters(mmeb: Path, store: PictureStore) -> None:
    """MVBench is the exception, as in the benchmark; the answer's option is the relevant one."""
    mme = read(mmeb_v2(), "Video-MME", mmeb, store)
    right = next(iter(mme.queries[0].relevance))
    assert right.startswith("A. ")
    assert mme.documents[right].text == right.removeprefix("A. ").rstrip(".")
    assert "\nB. " in mme.queries[0].input.text
    mvbench = read(mmeb_v2(), "MVBench", mmeb, store)
    right = next(iter(mvbench.queries[0].relevance))
    assert mvbench.documents[right].text == right
    assert right.startswith("(A) ")


def test_a_video_file_serves_where_there_are_no_frames(
    mmeb: Path, store: PictureStore, tmp_path: Path
) -> None:
    """Eight of up to 64 frames are taken, and the same ones every time."""
    root = tmp_path / "mmeb"
    shutil.copytree(mmeb / "video-tasks", root / "video-tasks")
    # One video of eight has no frames, so files and folders of frames mix within a task.
    shutil.rmtree(root / "video-tasks/frames/video_ret/MSVD/v0")
    videos = root / "video-tasks/videos/video_ret/MSVD"
    videos.mkdir(parents=True)
    # The rows name an .avi file; the decoder goes by content.
    write_video(videos / "v0.mp4", 30).rename(videos / "v0.avi")
    task = read(mmeb_v2(), "MSVD", root, store)
    (video,) = task.documents["v0"].parts
    assert isinstance(video, Video)
    assert len(video.source) == 8
    # `write_video` makes frame i of gray level 8 i, which compression changes a little.
    gray = [
        Image.open(io.BytesIO(Path(str(frame)).read_bytes())).convert("L").getpixel((5, 5))
        for frame in video.source
    ]
    assert gray == pytest.approx([8 * index for index in (0, 4, 8, 12, 16, 20, 24, 29)], abs=6)
    assert read(mmeb_v2(), "MSVD", root, store).documents["v0"] == task.documents["v0"]


def test_a_script_in_place_of_a_video_is_not_followed(store: PictureStore, tmp_path: Path) -> None:
    """A video of a data set opens nothing but itself, and the message is one line."""
    write_video(tmp_path / "other.mp4", 4)
    script = tmp_path / "v0.mp4"
    script.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(ValueError, match="it is not MP4") as caught:
        store.sample_frames(tmp_path / "none", script)
    assert "\n" not in str(caught.value)


def test_pages_are_ranked_for_every_query_by_graded_relevance(
    mmeb: Path, store: PictureStore
) -> None:
    """Each page is a picture on disk; the multilingual tasks take queries of every language."""
    task = read(mmeb_v2(), "ViDoRe_esg_reports_v2_multilingual", mmeb, store)
    assert len(task.queries) == 8
    assert {tuple(sorted(query.relevance.values())) for query in task.queries} == {(1, 2)}
    assert all(query.pool is None for query in task.queries)
    assert all(Path(str(item.image)).is_file() for item in task.documents.values())
    assert "page 0.png" in read(mmeb_v2(), "VisRAG_ChartQA", mmeb, store).documents


def test_mrmr_interleaves_texts_and_pictures(mrmr_root: Path, store: PictureStore) -> None:
    """A numbered mark stands for its picture; numbered pictures replace the merged one."""
    task = read(mrmr(), "knowledge", mrmr_root, store)
    # Even rows have one picture, odd rows two numbered ones and their merged picture.
    kinds = [[type(part) for part in query.input.parts] for query in task.queries[:2]]
    assert kinds == [[Picture, str], [str, Picture, str, Picture, str]]
    pictures = [
        Path(str(part.source)).read_bytes()
        for part in task.queries[1].input.parts
        if isinstance(part, Picture)
    ]
    # A digit is 28 pixels wide: "image 1" shows two, "image 2" one, the merged picture three.
    assert [Image.open(io.BytesIO(picture)).width for picture in pictures] == [56, 28]
    assert Counter(query.part for query in task.queries) == {
        "Art": 2,
        "Humanities": 2,
        "Medicine": 2,
        "Science": 2,
    }


def test_negation_is_asked_over_a_querys_own_four(mrmr_root: Path, store: PictureStore) -> None:
    """A candidate belongs to the query that its name begins with."""
    task = read(mrmr(), "negation", mrmr_root, store)
    assert task.queries[3].pool == ("n3_1", "n3_2", "n3_3", "n3_4")
    assert task.queries[3].relevance == {"n3_1": 1}


def test_rows_of_mmeb_eval_without_instructions_are_read(
    mmeb: Path, store: PictureStore, tmp_path: Path
) -> None:
    """The older data set has neither `qry_inst` nor `tgt_inst`."""
    import pyarrow.parquet as pq

    (spec,) = mmeb_v2().select(["CIRR"])
    shutil.copytree(mmeb / "image-tasks", tmp_path / "image-tasks")
    path = image_tasks.rows_path(spec, tmp_path) / "test.parquet"
    path.parent.mkdir(parents=True)
    rows = pq.read_table(next(image_tasks.rows_path(spec, mmeb).iterdir()))
    pq.write_table(rows.drop_columns(["qry_inst", "tgt_inst"]), path)
    task = image_tasks.read(spec, tmp_path, store)
    assert [query.input.instruction for query in task.queries] == [""] * 8
