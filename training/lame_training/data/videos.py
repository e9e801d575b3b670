r"""Rows of LLaVA-Hound's instruction data: conversations about videos that lie beside them as folders of frames.

Layout of huggingface.co/datasets/ShareGPTVideo/train_video_and_instruction once its archives are unpacked:

    train_300k/VIDEO/c01_0001.jpeg …   video_instruction/train/sft/video_caption_300k.jsonl   …/video_240k_caption_15k.jsonl

A line is `{"id": …, "video": VIDEO, "conversations": [{"from": "human", "value": "<video>\n…"}, {"from": "gpt", …}]}`. The
three tasks and the choice of frames are VLM2Vec-V2's (TIGER-AI-Lab/VLM2Vec, src/data/dataset/llavahound_dataset_caption.py
and llavahound_dataset_qa.py, src/data/utils/vision_utils.py); its prompts are not, a mixture's `instruction` sets them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.contract.prompts import Input, Video
from lame_runtime.errors import InputError

from lame_training.data.pairs import DataSet, Format, Pair, Row, SkipRow, asked, below, paired, text_input

FRAMES = 8
"""Frames of a video that are used, evenly spread, as in VLM2Vec-V2; a shorter video gives all it has."""
SUFFIXES = (".jpg", ".jpeg", ".png")
_NUMBER = re.compile(r"(\d+)")


def _to_text(row: Row, data_set: DataSet, images: Path) -> Pair:
    """The video and what was asked about it → the answer or the caption."""
    question, answer = _turns(row)
    return paired(asked(text_input(question, video=_video(row, images)), data_set), text_input(answer), data_set)


def _to_video(row: Row, data_set: DataSet, images: Path) -> Pair:
    """The caption → the video."""
    _, caption = _turns(row)
    return paired(asked(text_input(caption), data_set), Input(video=_video(row, images)), data_set)


def _turns(row: Row) -> tuple[str, str]:
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns[:2]):
        raise InputError('`conversations` must be a list of {"from": …, "value": TEXT}')
    if len(turns) < 2:
        raise SkipRow("no answer")
    return turns[0]["value"].replace("<video>", "").strip(), turns[1]["value"].strip()


def _video(row: Row, images: Path) -> Video:
    name = row["video"]
    if not isinstance(name, str) or not name:
        raise SkipRow("empty video")
    folder = below(images, name)
    if name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"the video {name} lies outside {images}; give paths below it")
    frames = _frames(folder)
    if not frames:
        raise SkipRow("video missing", folder)
    chosen = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames)), dtype=int)
    return Video(tuple(f"{folder}/{frames[index]}" for index in chosen))


def _frames(folder: str) -> tuple[str, ...]:
    """Names of the pictures in a folder, numbers in them by value."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES)]
    except OSError:
        return ()
    return tuple(sorted(names, key=_by_number))


def _by_number(name: str) -> list[Any]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in _NUMBER.split(name)]


_COLUMNS = ("video", "conversations")
CAPTION = Format(_to_text, _COLUMNS)
VIDEO = Format(_to_video, _COLUMNS, target_side="query", instruction="Find the video that shows this.")
QUESTION = Format(_to_text, _COLUMNS, instruction="Answer the question about the video.")
