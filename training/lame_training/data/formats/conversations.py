r"""Rows of LLaVA-Hound's instruction data: conversations about videos stored as folders of frames.

Layout of huggingface.co/datasets/ShareGPTVideo/train_video_and_instruction once its archives are
unpacked:

    train_300k/VIDEO/c01_0001.jpeg …
    video_instruction/train/sft/video_caption_300k.jsonl
    video_instruction/train/sft/video_240k_caption_15k.jsonl

A line is `{"id": …, "video": VIDEO, "conversations": [{"from": "human", "value": "<video>\n…"},
{"from": "gpt", …}]}`. The three tasks and the choice of frames are those of VLM2Vec-V2
(TIGER-AI-Lab/VLM2Vec, src/data/dataset/llavahound_dataset_caption.py, llavahound_dataset_qa.py and
src/data/utils/vision_utils.py). Its prompts are not used: a mixture's `instruction` sets them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.contract.prompts import Input, Video
from lame_runtime.errors import InputError, shown

from lame_training.data.pairs import (
    DataSet,
    Format,
    Pair,
    RawRow,
    SkipRow,
    make_pair,
    path_below,
    text_input,
    with_instruction,
)

FRAMES = 8
"""Frames per video, evenly spread, as in VLM2Vec-V2. A shorter video gives all that it has."""
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
_NUMBER = re.compile(r"(\d+)")


def _video_to_text(row: RawRow, data_set: DataSet, images: Path) -> Pair:
    """Reads one row as video and question → answer or caption."""
    question, answer = _turns(row)
    query = text_input(question, video=_video(row, images))
    return make_pair(with_instruction(query, data_set), text_input(answer), data_set)


def _text_to_video(row: RawRow, data_set: DataSet, images: Path) -> Pair:
    """Reads one row as caption → video."""
    _, caption = _turns(row)
    video = Input(video=_video(row, images))
    return make_pair(with_instruction(text_input(caption), data_set), video, data_set)


def _turns(row: RawRow) -> tuple[str, str]:
    """Returns what the human and the model say in the first two turns."""
    # A row gives one pair, from its first question and answer; later turns are left out.
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns[:2]
    ):
        raise InputError('`conversations` must be a list of {"from": …, "value": TEXT}')
    if len(turns) < 2:
        raise SkipRow("no answer")
    # The mark is removed because `Input` always puts the video before the text.
    return turns[0]["value"].replace("<video>", "").strip(), turns[1]["value"].strip()


def _video(row: RawRow, images: Path) -> Video:
    """Returns up to `FRAMES` frames of the row's video.

    Raises:
        InputError: the path of the video leaves `images`.
        SkipRow: the video has no name or no frames.
    """
    name = row["video"]
    if not isinstance(name, str) or not name:
        raise SkipRow("empty video")
    folder = path_below(images, name)
    # Checked here because the folder is listed now, before `SourceCheck` sees the frames' paths.
    if name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"the video {shown(name)} lies outside {images}; give paths below it")
    frames = _frames(folder)
    if not frames:
        raise SkipRow("video missing", folder)
    # With both ends: the first and the last frame are always among them.
    indices = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames)), dtype=int)
    return Video(tuple(f"{folder}/{frames[index]}" for index in indices))


def _frames(folder: str) -> tuple[str, ...]:
    """Returns the names of the pictures in a folder, in the order in which they are shown."""
    try:
        names = [
            entry.name
            for entry in os.scandir(folder)
            if entry.name.lower().endswith(FRAME_SUFFIXES)
        ]
    # No such folder, or no path (a null character): skipped as an empty folder is.
    except (OSError, ValueError):
        return ()
    return tuple(sorted(names, key=_numeric_key))


def _numeric_key(name: str) -> list[Any]:
    """Sorts digits by value: frame 10 comes after frame 9 even if the names are not zero-padded."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in _NUMBER.split(name)]


_COLUMNS = ("video", "conversations")
# One file of captions serves two tasks: video → caption and caption → video.
CAPTION = Format(_video_to_text, _COLUMNS)
VIDEO = Format(
    _text_to_video, _COLUMNS, target_side="query", instruction="Find the video that shows this."
)
QUESTION = Format(_video_to_text, _COLUMNS, instruction="Answer the question about the video.")
