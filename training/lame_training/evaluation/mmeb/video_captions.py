"""Describes MMEB's text-to-video data sets: how their rows name a video and its caption.

Source: `src/data/eval_dataset/{msrvtt,msvd,didemo,vatex,youcook2}_dataset.py` of VLM2Vec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lame_training.evaluation.suites.tables import TableRow, list_of, name_of, text_of


@dataclass(frozen=True)
class CaptionedVideos:
    """Getters for the cells of a text-to-video data set; each raises `ValueError` for a bad row."""

    instruction: str
    """The instruction of the queries, the benchmark's own words."""
    name: Callable[[TableRow], str]
    """Returns the name of the video's folder of frames."""
    file: Callable[[TableRow], str]
    """Returns the file name of the video."""
    caption: Callable[[TableRow], str]
    """Returns the text of the query."""


def _first_text(row: TableRow, column: str) -> str:
    """Returns the first of several captions, which is the one that the benchmark asks with."""
    # The other captions describe the same video; the benchmark's code takes `captions[0]`.
    captions = list_of(row, column)
    if not captions or not isinstance(captions[0], str):
        raise ValueError(f"its {column} holds no text")
    return captions[0]


CAPTIONED_VIDEOS = {
    "MSR-VTT": CaptionedVideos(
        "Find a video that contains the following visual content:",
        name=lambda row: name_of(row, "video_id"),
        file=lambda row: name_of(row, "video"),
        caption=lambda row: text_of(row, "caption"),
    ),
    "MSVD": CaptionedVideos(
        "Find the video snippet that corresponds to the given summary:",
        name=lambda row: name_of(row, "video_id"),
        file=lambda row: name_of(row, "video"),
        caption=lambda row: _first_text(row, "caption"),
    ),
    # Rows give a path such as `video/NAME.mp4`, of another folder than ours, and no identifier.
    "DiDeMo": CaptionedVideos(
        "Find a video that includes the following described scenes:",
        name=lambda row: Path(name_of(row, "video")).stem,
        file=lambda row: Path(name_of(row, "video")).name,
        caption=lambda row: text_of(row, "caption"),
    ),
    # Rows name no file. VATEX has captions in two languages; `enCap` are the English ones.
    "VATEX": CaptionedVideos(
        "Select a video that fits the description provided:",
        name=lambda row: name_of(row, "videoID"),
        file=lambda row: name_of(row, "videoID") + ".mp4",
        caption=lambda row: _first_text(row, "enCap"),
    ),
    # Rows are captioned segments: frames lie under `id`, and the path is of another folder.
    "YouCook2": CaptionedVideos(
        "Find a video that demonstrates the following action while making a recipe:",
        name=lambda row: name_of(row, "id"),
        file=lambda row: Path(name_of(row, "video_path")).name,
        caption=lambda row: text_of(row, "sentence"),
    ),
}
"""The data sets by task name."""
