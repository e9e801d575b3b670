"""Tests the hashes that embeddings are cached under.

Equal content has equal hashes, and whatever changes a vector changes its hash.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_training.evaluation.embedding.identity import (
    CHECKPOINT_FILES,
    ContentHasher,
    model_identity,
)
from PIL import Image


def picture(path: Path, gray: int) -> str:
    Image.new("RGB", (8, 8), (gray, gray, gray)).save(path)
    return str(path)


def test_an_inputs_key_is_its_content_not_its_place(tmp_path: Path) -> None:
    """Two files of the same bytes are the same picture, alone or as a video's frame."""
    first, second = picture(tmp_path / "a.png", 5), picture(tmp_path / "b.png", 5)
    key = ContentHasher().key
    assert key(Input("x", first)) == key(Input("x", second))
    # In both orders: equal frames make equal videos.
    assert key(Input(video=Video((first, second)))) == key(Input(video=Video((second, first))))


def test_whatever_changes_a_vector_changes_the_key(tmp_path: Path) -> None:
    """Text, instruction, picture, kind of part, order and frame rate all count."""
    one, other = picture(tmp_path / "a.png", 5), picture(tmp_path / "b.png", 6)
    # Neighbors differ in one thing, and every input must differ from all others. The last two would
    # be equal if the texts of an input were hashed joined together.
    inputs = [
        Input("x", one),
        Input("y", one),
        Input("x", other),
        Input("x", one, ""),
        Input("x", one, "Find it."),
        Input(content=("x", Picture(one))),
        Input("x", video=Video((one,))),
        Input("x", video=Video((one, other))),
        Input("x", video=Video((other, one))),
        Input("x", video=Video((one,), fps=1.0)),
        Input("x", video=Video(one)),
        Input(content=(Picture(one), "x", "y")),
        Input(content=(Picture(one), "xy")),
    ]
    keys = [ContentHasher().key(item) for item in inputs]
    assert len(set(keys)) == len(keys)


def test_a_file_that_cannot_be_read_has_no_key(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(ValueError, match=r"gone\.png: No such file"):
        ContentHasher().key(Input(image=str(tmp_path / "gone.png")))


def test_a_models_identity_is_its_files_its_graph_and_what_runs_it(tmp_path: Path) -> None:
    """Weights, contract, tokenizer and an adapter count; the folder's name and logs do not."""
    folder = tmp_path / "a"
    folder.mkdir()
    for name in CHECKPOINT_FILES:
        (folder / name).write_text(name)
    first = model_identity(folder, "pytorch", "torch 2")
    # A log of training is in the folder of a checkpoint, but no embedding depends on it.
    (folder / "losses.csv").write_text("1,2")
    folder = folder.rename(tmp_path / "b")
    assert model_identity(folder, "pytorch", "torch 2") == first
    identities = {
        first,
        model_identity(folder, "pytorch", "torch 3"),
        model_identity(folder, "fp32", "torch 2"),
    }
    for name in CHECKPOINT_FILES:
        (folder / name).write_text("changed")
        identities.add(model_identity(folder, "pytorch", "torch 2"))
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_model.safetensors").write_text("adapter")
    identities.add(model_identity(folder, "pytorch", "torch 2"))
    # With a manifest the folder is a bundle, and the manifest holds the hashes of its other files.
    (folder / "manifest.json").write_text("{}")
    identities.add(model_identity(folder, "pytorch", "torch 2"))
    # One of the first model, two of what runs it, four changed files, adapter and manifest.
    assert len(identities) == 9
