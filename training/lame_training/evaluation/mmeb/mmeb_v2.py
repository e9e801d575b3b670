"""Defines MMEB-V2 as a suite: 36 image, 18 video and 24 visual-document tasks below one root.

    ROOT/image-query  image-tasks  video-tasks/{data,frames,videos}  visdoc-tasks/data

The layout is the published one; `image_tasks`, `video_tasks` and `document_tasks` describe its
folders. Tasks without files are reported as missing.
"""

from __future__ import annotations

from pathlib import Path

from lame_training.evaluation.mmeb import document_tasks, image_tasks, video_tasks
from lame_training.evaluation.mmeb.task_list import CONVENTIONS, mmeb_specs
from lame_training.evaluation.suites.picture_store import PictureStore
from lame_training.evaluation.suites.suite import Suite, Task, TaskSpec
from lame_training.evaluation.suites.tables import table_files

LAYOUT = "image-query/TASK, video-tasks/data/TABLE or visdoc-tasks/data/NAME"
# The three parts have layouts of their own; each module offers `rows_path` and `read`.
_READERS = {"image": image_tasks, "video": video_tasks, "visdoc": document_tasks}


def mmeb_v2(convention: str = CONVENTIONS[0]) -> Suite:
    """Returns the suite under one of the conventions for its two page-level tasks.

    Raises:
        UsageError: there is no such convention.
    """
    return Suite(
        "mmeb-v2",
        mmeb_specs(convention),
        present=_present,
        read=_read,
        layout=LAYOUT,
        convention=convention,
        convention_key="visdoc_convention",
    )


def _present(spec: TaskSpec, root: Path) -> bool:
    # Only the rows: a missing picture skips its row, with a reason, rather than the whole task.
    return bool(table_files(_READERS[spec.group].rows_path(spec, root)))


def _read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    return _READERS[spec.group].read(spec, root, store)
