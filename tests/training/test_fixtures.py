"""Data sets made of digits: the same bytes every time, in the layouts of the published ones."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from lame_runtime.errors import StorageError
from lame_training.fixtures.training_sets import LAYOUTS


@pytest.mark.parametrize("layout", ["mmeb-train", "visrag", "llava-hound", "colpali"])
def test_fixtures_are_the_same_every_time_and_replace_nothing(layout: str, tmp_path: Path) -> None:
    """Two copies have the same names and bytes, and an existing folder is not written to."""
    # Test figures depend on these bytes, so a changed draw has to be noticed.
    copies = []
    for root in (tmp_path / "first", tmp_path / "second"):
        LAYOUTS[layout](root)
        files = [path for path in root.rglob("*") if path.is_file()]
        copies.append({path.relative_to(root): path.read_bytes() for path in files})
    assert copies[0] == copies[1]
    with pytest.raises(StorageError, match="already exists"):
        LAYOUTS[layout](tmp_path / "first")


def test_fixtures_have_the_published_columns_and_the_image_feature(published: Path) -> None:
    """`datasets` opens the pages as pictures, as it does those of the real shards."""
    from datasets import Features
    from datasets import Image as ImageFeature

    shard = pq.read_schema(published / "colpali_train_set/data/train-00000-of-00002.parquet")
    assert shard.names == [
        *("image", "image_filename", "query", "answer", "source"),
        *("options", "page", "model", "prompt", "answer_type"),
    ]
    assert isinstance(Features.from_arrow_schema(shard)["image"], ImageFeature)
    # VisRAG has fewer columns, and names its pages by their number.
    visrag = published / "VisRAG-Ret-Train-In-domain-data/data/train-00001-of-00002.parquet"
    assert pq.read_schema(visrag).names == ["query", "image", "source"]
    video = published / "train_video_and_instruction/train_300k/v_digits-Scene-000"
    assert sorted(path.name for path in video.iterdir())[0] == "c01_0001.jpeg"
