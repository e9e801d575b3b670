"""Parses the rows of MMEB's video tasks, with one function for each kind of row.

Source: `src/data/eval_dataset/{video_classification,ssv2,moment_retrieval,momentseeker,…}` of
VLM2Vec. The instructions are the benchmark's own words, because they are part of what is measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lame_runtime.contract.prompts import Input, Video

from lame_training.evaluation.mmeb.video_captions import CAPTIONED_VIDEOS
from lame_training.evaluation.mmeb.video_questions import QUESTION_INSTRUCTION, QUESTION_PARSERS
from lame_training.evaluation.suites.collector import Collector
from lame_training.evaluation.suites.picture_store import PictureStore
from lame_training.evaluation.suites.suite import Query, TaskSpec
from lame_training.evaluation.suites.tables import (
    TableRow,
    existing,
    list_of,
    name_of,
    place_below,
    text_of,
    texts_of,
)

VIDEO_INSTRUCTION = "Understand the content of the provided video."
CLIP_INSTRUCTION = "Understand the content of the provided video clip."
CLASS_INSTRUCTIONS = {
    "K700": "Recognize the category of the video content.",
    "SmthSmthV2": (
        "What actions or object interactions are being performed by the person in the video?"
    ),
    "UCF101": "What activities or sports are being performed by the person in the video?",
    # The grammar is the benchmark's.
    "HMDB51": "What actions or objects interactions are the person in the video doing?",
    "Breakfast": "Recognize the breakfast type that the person is cooking in the video.",
}
MOMENT_INSTRUCTION = "Find the clip that corresponds to the described scene in the given video:"
# MomentSeeker's queries come in three kinds, each with an instruction of its own.
SEEKER_TEXT_INSTRUCTION = "Find the clip that corresponds to the given text:"
SEEKER_IMAGE_INSTRUCTION = "Select the video clip that aligns with the given text and image:"
SEEKER_VIDEO_INSTRUCTION = "Find the clip that corresponds to the given sentence and video segment:"


@dataclass(frozen=True)
class VideoTaskFiles:
    """The place of a task's videos, and the collector that takes its documents."""

    spec: TaskSpec
    collector: Collector
    store: PictureStore
    frames: Path
    """Folder with one folder of saved frames per video."""
    videos: Path
    """Folder of video files, for videos without saved frames."""

    def video(self, name: str, file: str) -> Video:
        """Returns a video, from its saved frames or else from its file.

        Raises:
            ValueError: there is neither, or a name leads out of its folder.
        """
        folder, video = place_below(self.frames, name), place_below(self.videos, file)
        return Video(self.store.sample_frames(folder, video))

    def add_clip(self, folder: Path, instruction: str) -> str:
        """Adds a folder of frames as a document, and returns the document's name.

        Raises:
            ValueError: the folder holds no frames.
        """
        # Relative, so that names (and with them result files) do not depend on the data's place.
        name = folder.relative_to(self.frames).as_posix()
        return self.collector.add_document(
            name,
            lambda: Input(instruction=instruction, video=Video(self.store.sample_frames(folder))),
        )


def parse_class_row(files: VideoTaskFiles, row: TableRow) -> Query:
    """Returns a classification query; the candidates are all classes, or those of the row."""
    name = name_of(row, "video_id")
    query = Input(
        instruction=CLASS_INSTRUCTIONS[files.spec.name], video=files.video(name, name + ".mp4")
    )
    right = text_of(row, "pos_text")
    # "video_choice" rows list their candidates under `neg_text`, the right one included.
    own_pool = files.spec.reader == "video_choice"
    labels = texts_of(row, "neg_text") if own_pool else [right]
    # Known classes are there already. This adds labels that the class list lacks, if any.
    for label in labels:
        files.collector.add_document(label, functools.partial(Input, label))
    if right not in labels:
        raise ValueError(f"its right answer {right!r} is not among its candidates")
    return Query(query, {right: 1}, tuple(dict.fromkeys(labels)) if own_pool else None)


def parse_caption_row(files: VideoTaskFiles, row: TableRow) -> Query:
    """Returns a caption as the query for its video, and adds the video to the documents."""
    data_set = CAPTIONED_VIDEOS[files.spec.name]
    name = data_set.name(row)
    # There is no table of documents: the pool is the videos of all rows.
    files.collector.add_document(
        name,
        lambda: Input(instruction=VIDEO_INSTRUCTION, video=files.video(name, data_set.file(row))),
    )
    query = Input(data_set.caption(row).strip(), instruction=data_set.instruction)
    return Query(query, {name: 1})


def parse_moment_row(files: VideoTaskFiles, row: TableRow) -> Query:
    """Returns a query for the clips of one video; the rows do not list them, the folder does."""
    video = place_below(files.frames, Path(name_of(row, "video_path")).stem)
    query = Input(
        text_of(row, "query"),
        instruction=MOMENT_INSTRUCTION,
        video=Video(files.store.sample_frames(video / "query")),
    )
    # Sorted, since the order of a folder differs between file systems.
    clips = sorted(
        place_below(files.frames, path.relative_to(files.frames).as_posix())
        for path in video.iterdir()
        if path.is_dir() and path.name != "query"
    )
    if not any(clip.name.startswith("positive") for clip in clips):
        raise ValueError(f"{video} has no clip positive…")
    # There may be several positive clips; hit@1 counts any of them.
    grades = {
        files.add_clip(clip, VIDEO_INSTRUCTION): int(clip.name.startswith("positive"))
        for clip in clips
    }
    return _graded_query(query, grades)


def parse_seeker_row(files: VideoTaskFiles, row: TableRow) -> Query:
    """Returns a MomentSeeker query: a text alone, or with a picture or a video clip."""
    # Despite its name, `input_frames` is the path of a file, and empty for a text alone.
    text, source = text_of(row, "query"), text_of(row, "input_frames")
    if source.endswith(".mp4"):
        folder = _clip_folder(files, source)
        frames = files.store.sample_frames(folder)
        query = Input(text, instruction=SEEKER_VIDEO_INSTRUCTION, video=Video(frames))
    elif source.endswith(".jpg"):
        picture = existing(files.frames, f"query_{source}")
        query = Input(text, picture, SEEKER_IMAGE_INSTRUCTION)
    else:
        query = Input(text, instruction=SEEKER_TEXT_INSTRUCTION)
    grades: dict[str, int] = {}
    for column, grade in (("positive_frames", 1), ("negative_frames", 0)):
        for clip in list_of(row, column):
            name = files.add_clip(
                _clip_folder(files, name_of(clip, "output_path")), CLIP_INSTRUCTION
            )
            # A clip that is listed as positive and as negative stays positive.
            grades.setdefault(name, grade)
    return _graded_query(query, grades)


def parse_question_row(files: VideoTaskFiles, row: TableRow) -> Query:
    """Returns a question about a video; the candidates are its options."""
    # Candidates are shared between questions by name: "yes" is embedded once.
    question = QUESTION_PARSERS[files.spec.name](row)
    for name, text in question.candidates.items():
        files.collector.add_document(name, functools.partial(Input, text))
    video = files.video(question.video, question.video + ".mp4")
    query = Input(question.text, instruction=QUESTION_INSTRUCTION, video=video)
    return Query(query, {question.right: 1}, tuple(question.candidates))


def _clip_folder(files: VideoTaskFiles, path: str) -> Path:
    """Returns the folder of frames of a MomentSeeker clip, `a/b.mp4` → `video_frames/a_b`."""
    return place_below(files.frames, f"video_frames/{path.split('.mp4')[0].replace('/', '_')}")


def _graded_query(query: Input, grades: dict[str, int]) -> Query:
    """Returns a query whose pool is all graded names, the relevant ones those above 0."""
    relevance = {name: grade for name, grade in grades.items() if grade}
    return Query(query, relevance, tuple(grades))


ROW_PARSERS: dict[str, Callable[[VideoTaskFiles, TableRow], Query]] = {
    "video_cls": parse_class_row,
    "video_choice": parse_class_row,
    "video_ret": parse_caption_row,
    "video_moment": parse_moment_row,
    "video_seeker": parse_seeker_row,
    "video_qa": parse_question_row,
}
"""Parser by the reader's name in `task_list.VIDEO`; each raises `ValueError` for a bad row."""
