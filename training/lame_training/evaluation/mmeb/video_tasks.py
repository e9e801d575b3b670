"""Reads MMEB's video tasks: videos are folders of frames, of which a model sees 8 spread evenly.

    ROOT/video-tasks/data/TABLE           rows, as JSONL or as the parquet folder of a clone; TABLE
                                          is listed in `task_list.VIDEO`
    ROOT/video-tasks/frames/PART/NAME/    up to 64 saved frames of each video
    ROOT/video-tasks/videos/PART/         video files, read if a video has no folder of frames

Source: `src/data/eval_dataset/*_dataset.py` and `experiments/public/eval/video.yaml` of VLM2Vec.
"""

from __future__ import annotations

import functools
from pathlib import Path

from lame_runtime.contract.prompts import Input

from lame_training.evaluation.mmeb.video_labels import CLASSES, classes
from lame_training.evaluation.mmeb.video_questions import mvbench_rows
from lame_training.evaluation.mmeb.video_rows import ROW_PARSERS, VideoTaskFiles
from lame_training.evaluation.suites.collector import Collector
from lame_training.evaluation.suites.picture_store import PictureStore
from lame_training.evaluation.suites.suite import Task, TaskSpec
from lame_training.evaluation.suites.tables import read_table

# The archives unpack into these four folders, below frames/ as below videos/.
PARTS = {
    **dict.fromkeys(("MSR-VTT", "MSVD", "DiDeMo", "YouCook2", "VATEX"), "video_ret"),
    **dict.fromkeys(("K700", "SmthSmthV2", "HMDB51", "UCF101", "Breakfast"), "video_cls"),
    **dict.fromkeys(("QVHighlight", "Charades-STA", "MomentSeeker"), "video_mret"),
    **dict.fromkeys(("MVBench", "Video-MME", "NExTQA", "EgoSchema", "ActivityNetQA"), "video_qa"),
}
"""Folder that holds a task's folder of frames, by task name."""
FOLDERS = {"SmthSmthV2": "SSv2", "Charades-STA": "Charades_STA"}
"""Name of a task's folder of frames, if it differs from the task's name."""


def rows_path(spec: TaskSpec, root: Path) -> Path:
    """Returns the table of a task's rows."""
    return root / "video-tasks" / "data" / spec.source


def read(spec: TaskSpec, root: Path, store: PictureStore) -> Task:
    """Reads a task.

    Raises:
        InputError: a file cannot be parsed, or PyAV is missing; the message names the file.
        StorageError: the rows are missing, or the disk refuses decoded frames.
    """
    part = Path(PARTS[spec.name]) / FOLDERS.get(spec.name, spec.name)
    collector = Collector(spec)
    files = VideoTaskFiles(
        spec,
        collector,
        store,
        frames=root / "video-tasks" / "frames" / part,
        videos=root / "video-tasks" / "videos" / part,
    )
    # The known classes first: those that no test video shows are candidates as well.
    for label in classes(spec.name) if spec.name in CLASSES else ():
        collector.add_document(label, functools.partial(Input, label))
    # No required columns: each data set has its own, and its parser names what a row lacks.
    table = rows_path(spec, root)
    rows = mvbench_rows(table) if spec.name == "MVBench" else read_table(table, ())
    collector.add_queries(rows, functools.partial(ROW_PARSERS[spec.reader], files))
    return collector.build_task()
