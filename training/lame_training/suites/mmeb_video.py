"""MMEB's video tasks: videos as folders of frames, of which a model sees 8 spread evenly.

    ROOT/video-tasks/data/TABLE           rows, as JSONL or the parquet folder of a clone (see `mmeb_tasks.VIDEO`)
    ROOT/video-tasks/frames/PART/NAME/    up to 64 saved frames of each video
    ROOT/video-tasks/videos/PART/         the video files, read where a video has no frames folder

Source: VLM2Vec's `src/data/eval_dataset/*_dataset.py` and `experiments/public/eval/video.yaml`. Classes and clips are
described there by instructions that are part of what is measured, so they stand here word for word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lame_runtime.contract.prompts import Input, Video

from lame_training.suites import video_qa
from lame_training.suites.base import Query, Task, TaskSpec
from lame_training.suites.pictures import PictureStore
from lame_training.suites.rows import Collector, Row, existing, list_of, name_of, read_table, text_of
from lame_training.suites.video_labels import CLASSES, classes

READ = "Understand the content of the provided video."
READ_CLIP = "Understand the content of the provided video clip."
PARTS = {
    **dict.fromkeys(("MSR-VTT", "MSVD", "DiDeMo", "YouCook2", "VATEX"), "video_ret"),
    **dict.fromkeys(("K700", "SmthSmthV2", "HMDB51", "UCF101", "Breakfast"), "video_cls"),
    **dict.fromkeys(("QVHighlight", "Charades-STA", "MomentSeeker"), "video_mret"),
    **dict.fromkeys(("MVBench", "Video-MME", "NExTQA", "EgoSchema", "ActivityNetQA"), "video_qa"),
}
FOLDERS = {"SmthSmthV2": "SSv2", "Charades-STA": "Charades_STA"}
"""Where a task's folder of frames is not named like it."""
CLASS_INSTRUCTIONS = {
    "K700": "Recognize the category of the video content.",
    "SmthSmthV2": "What actions or object interactions are being performed by the person in the video?",
    "UCF101": "What activities or sports are being performed by the person in the video?",
    "HMDB51": "What actions or objects interactions are the person in the video doing?",
    "Breakfast": "Recognize the breakfast type that the person is cooking in the video.",
}


@dataclass(frozen=True)
class _Captioned:
    """How a text-to-video data set names a video and its caption."""

    instruction: str
    name: Callable[[Row], str]
    file: Callable[[Row], str]
    caption: Callable[[Row], str]


def _first(row: Row, column: str) -> str:
    captions = list_of(row, column)
    if not captions or not isinstance(captions[0], str):
        raise ValueError(f"its {column} holds no text")
    return captions[0]


CAPTIONED = {
    "MSR-VTT": _Captioned(
        "Find a video that contains the following visual content:",
        lambda row: name_of(row, "video_id"),
        lambda row: name_of(row, "video"),
        lambda row: text_of(row, "caption"),
    ),
    "MSVD": _Captioned(
        "Find the video snippet that corresponds to the given summary:",
        lambda row: name_of(row, "video_id"),
        lambda row: name_of(row, "video"),
        lambda row: _first(row, "caption"),
    ),
    "DiDeMo": _Captioned(
        "Find a video that includes the following described scenes:",
        lambda row: Path(name_of(row, "video")).stem,
        lambda row: Path(name_of(row, "video")).name,
        lambda row: text_of(row, "caption"),
    ),
    "VATEX": _Captioned(
        "Select a video that fits the description provided:",
        lambda row: name_of(row, "videoID"),
        lambda row: name_of(row, "videoID") + ".mp4",
        lambda row: _first(row, "enCap"),
    ),
    "YouCook2": _Captioned(
        "Find a video that demonstrates the following action while making a recipe:",
        lambda row: name_of(row, "id"),
        lambda row: Path(name_of(row, "video_path")).name,
        lambda row: text_of(row, "sentence"),
    ),
}


def place(spec: TaskSpec, root: Path) -> Path:
    """The table of a task's rows."""
    return root / "video-tasks" / "data" / spec.source


def read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    """Reads a task; raises `InputError` naming the file that cannot be read."""
    part = Path(PARTS[spec.name]) / FOLDERS.get(spec.name, spec.name)
    frames, videos = root / "video-tasks/frames" / part, root / "video-tasks/videos" / part
    collector = Collector(spec)

    def seen(name: str, file: str) -> Video:
        return Video(store.frames(frames / name, videos / file))

    def classified(row: Row) -> Query:
        name = name_of(row, "video_id")
        asked = Input(instruction=CLASS_INSTRUCTIONS[spec.name], video=seen(name, name + ".mp4"))
        right = text_of(row, "pos_text")
        labels = [right] if spec.reader == "video_cls" else list_of(row, "neg_text")
        for label in labels:
            collector.document(label, functools.partial(Input, label))
        if right not in labels:
            raise ValueError(f"its right answer {right!r} is not among its candidates")
        return Query(asked, {right: 1}, None if spec.reader == "video_cls" else tuple(dict.fromkeys(labels)))

    def captioned(row: Row) -> Query:
        names = CAPTIONED[spec.name]
        name = names.name(row)
        collector.document(name, lambda: Input(instruction=READ, video=seen(name, names.file(row))))
        return Query(Input(names.caption(row).strip(), instruction=names.instruction), {name: 1})

    def moment(row: Row) -> Query:
        name = Path(name_of(row, "video_path")).stem
        ask = "Find the clip that corresponds to the described scene in the given video:"
        asked = Input(text_of(row, "query"), instruction=ask, video=Video(store.frames(frames / name / "query")))
        clips = sorted(path for path in (frames / name).iterdir() if path.is_dir() and path.name != "query")
        if not any(path.name.startswith("positive") for path in clips):
            raise ValueError(f"{frames / name} has no clip positive…")
        pool = {_clip(path, READ): int(path.name.startswith("positive")) for path in clips}
        return Query(asked, {clip: 1 for clip, right in pool.items() if right}, tuple(pool))

    def seeker(row: Row) -> Query:
        text, given = text_of(row, "query"), text_of(row, "input_frames")
        if given.endswith(".mp4"):
            ask = "Find the clip that corresponds to the given sentence and video segment:"
            folder = frames / "video_frames" / given.split(".mp4")[0].replace("/", "_")
            asked = Input(text, instruction=ask, video=Video(store.frames(folder)))
        elif given.endswith(".jpg"):
            ask = "Select the video clip that aligns with the given text and image:"
            asked = Input(text, existing(frames / f"query_{given}"), ask)
        else:
            asked = Input(text, instruction="Find the clip that corresponds to the given text:")
        pool: dict[str, int] = {}
        for column, right in (("positive_frames", 1), ("negative_frames", 0)):
            for clip in list_of(row, column):
                folder = frames / "video_frames" / name_of(clip, "output_path").replace("/", "_").split(".mp4")[0]
                pool.setdefault(_clip(folder, READ_CLIP), right)
        return Query(asked, {clip: 1 for clip, right in pool.items() if right}, tuple(pool))

    def _clip(folder: Path, instruction: str) -> str:
        name = folder.relative_to(frames).as_posix()
        return collector.document(name, lambda: Input(instruction=instruction, video=Video(store.frames(folder))))

    def asked(row: Row) -> Query:
        question = video_qa.QUESTIONS[spec.name](row)
        for name, text in question.candidates.items():
            collector.document(name, functools.partial(Input, text))
        video = seen(question.video, question.video + ".mp4")
        return Query(Input(question.text, instruction=video_qa.ASK, video=video), {question.right: 1}, tuple(question.candidates))

    if spec.name in CLASSES:
        for label in classes(spec.name):
            collector.document(label, functools.partial(Input, label))
    parse = {"video_cls": classified, "video_choice": classified, "video_ret": captioned, "video_moment": moment}
    rows = video_qa.mvbench_rows(place(spec, root)) if spec.name == "MVBench" else read_table(place(spec, root), ())
    collector.read(rows, {**parse, "video_seeker": seeker, "video_qa": asked}[spec.reader])
    return collector.task()
