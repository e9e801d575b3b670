"""Hashes that embeddings are kept by: the same for the same content, another for anything that changes a vector."""

from __future__ import annotations

from pathlib import Path

import pytest
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_training.suites.identity import CHECKPOINT_FILES, ContentHasher, model_identity
from PIL import Image


def picture(path: Path, grey: int) -> str:
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(path)
    return str(path)


def test_an_inputs_key_is_its_content_not_its_place(tmp_path: Path) -> None:
    """Two files of the same bytes are one picture, in a row as in a video."""
    first, second = picture(tmp_path / "a.png", 5), picture(tmp_path / "b.png", 5)
    key = ContentHasher().key
    assert key(Input("x", first)) == key(Input("x", second))
    assert key(Input(video=Video((first, second)))) == key(Input(video=Video((second, first))))


def test_whatever_changes_a_vector_changes_the_key(tmp_path: Path) -> None:
    """Text, instruction, picture, kind, order and frame rate."""
    one, other = picture(tmp_path / "a.png", 5), picture(tmp_path / "b.png", 6)
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
    """The reason names it."""
    with pytest.raises(ValueError, match=r"gone\.png: No such file"):
        ContentHasher().key(Input(image=str(tmp_path / "gone.png")))


def test_a_models_identity_is_its_files_its_graph_and_what_runs_it(tmp_path: Path) -> None:
    """Weights, contract, tokenizer, an adapter; not the folder's name, nor files that no embedding depends on."""
    folder = tmp_path / "a"
    folder.mkdir()
    for name in CHECKPOINT_FILES:
        (folder / name).write_text(name)
    first = model_identity(folder, "pytorch", "torch 2")
    (folder / "losses.csv").write_text("1,2")
    folder = folder.rename(tmp_path / "b")
    assert model_identity(folder, "pytorch", "torch 2") == first
    found = {first, model_identity(folder, "pytorch", "torch 3"), model_identity(folder, "fp32", "torch 2")}
    for name in CHECKPOINT_FILES:
        (folder / name).write_text("changed")
        found.add(model_identity(folder, "pytorch", "torch 2"))
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_model.safetensors").write_text("adapter")
    found.add(model_identity(folder, "pytorch", "torch 2"))
    (folder / "manifest.json").write_text("{}")  # a bundle: its manifest holds the hashes of all else
    found.add(model_identity(folder, "pytorch", "torch 2"))
    assert len(found) == 9
