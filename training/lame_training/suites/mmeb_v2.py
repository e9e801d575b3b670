"""MMEB-V2 as a suite: 36 image, 18 video and 24 visual-document tasks below one root, laid out as published.

    ROOT/image-query  image-tasks  video-tasks/{data,frames,videos}  visdoc-tasks/data

See `mmeb_image`, `mmeb_video` and `mmeb_visdoc` for what lies where; tasks whose files are not there are reported as missing.
"""

from __future__ import annotations

from pathlib import Path

from lame_training.suites import mmeb_image, mmeb_video, mmeb_visdoc
from lame_training.suites.base import Suite, Task, TaskSpec
from lame_training.suites.mmeb_tasks import CONVENTIONS, mmeb_specs
from lame_training.suites.pictures import PictureStore
from lame_training.suites.rows import tables

LAYOUT = "image-query/TASK, video-tasks/data/TABLE or visdoc-tasks/data/NAME"
_READERS = {"image": mmeb_image, "video": mmeb_video, "visdoc": mmeb_visdoc}


def mmeb_v2(convention: str = CONVENTIONS[0]) -> Suite:
    """The suite under one of the conventions for its two page-level tasks."""
    return Suite("mmeb-v2", mmeb_specs(convention), _present, _read, LAYOUT, convention, "visdoc_convention")


def _present(spec: TaskSpec, root: Path) -> bool:
    return bool(tables(_READERS[spec.group].place(spec, root)))


def _read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    return _READERS[spec.group].read(spec, root, store)
