"""A damaged checkpoint ends in one line that names the tensor or the setting."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lame_runtime.errors import BundleError
from lame_training.model import checkpoint as checkpoint_files
from lame_training.model.checkpoint import load_model
from lame_training.model.from_disk.checkpoint_checks import steps_of
from safetensors.torch import load_file, save_file
from samples import edit_json

Damage = Callable[[Path], object]
"""A function that damages the checkpoint it is given."""
MATRIX = "backbone.language_model.layers.0.self_attn.q_proj.weight"


def tensor(change: Callable[[torch.Tensor], torch.Tensor], name: str = MATRIX) -> Damage:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights[name] = change(weights[name]).contiguous()
        save_file(weights, folder / "model.safetensors")

    return damage


def without(name: str) -> Damage:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors")

    return damage


def surplus(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "backbone.more": torch.ones(2)}, folder / "model.safetensors")


def setting(**values: object) -> Damage:
    return lambda folder: edit_json(folder / "config.json", **values)


def contract(**values: object) -> Damage:
    """Changes the rules of tokens in the contract."""

    def damage(folder: Path) -> None:
        path = folder / "contract.json"
        content = json.loads(path.read_text())
        content["tokens"] |= values
        path.write_text(json.dumps(content))

    return damage


def backbone(part: str, **values: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        content["backbone"][part] |= values
        path.write_text(json.dumps(content))

    return damage


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def linked_adapter(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(exist_ok=True)
    (folder / "adapter").symlink_to(folder.parent / "elsewhere")


def linked_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def piped(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


FAULTS: dict[str, tuple[Damage, str]] = {
    "integers": (tensor(lambda value: value.to(torch.int32)), f"{MATRIX} is of type I32"),
    "NaN": (tensor(lambda value: value * float("nan")), f"{MATRIX} holds NaN"),
    "an infinity in a vector": (
        tensor(lambda value: value / 0, "backbone.language_model.norm.weight"),
        "backbone.language_model.norm.weight holds NaN or an infinity",
    ),
    "half a matrix": (tensor(lambda value: value[:, ::2]), f"{MATRIX} is (64, 32)"),
    "a missing tensor": (without(MATRIX), f"the weight {MATRIX} is missing"),
    "a surplus tensor": (surplus, "the weight backbone.more is unknown"),
    "truncated weights": (truncated, "model.safetensors: cannot be read"),
    "weights elsewhere": (linked_weights, "leads outside of its folder"),
    "weights that are a pipe": (piped("model.safetensors"), "is a pipe"),
    "settings that are a pipe": (piped("config.json"), "is a pipe"),
    "unknown pooling": (setting(pooling="other"), "pooling is 'other'"),
    "unknown attention": (setting(embed_attends=3), "embed_attends is 3"),
    "a negative n_reason": (setting(n_reason=-1), "n_reason is -1"),
    "a dim that is a text": (setting(dim="64"), "dim is '64'"),
    "no backbone": (setting(backbone=None), "backbone is None"),
    "a decoder that is a list": (setting(decoder=[1]), "decoder is [1]"),
    "a decoder that is an empty list": (setting(decoder=[]), "decoder is [], not an object"),
    "a decoder that is zero": (setting(decoder=0), "decoder is 0, not an object"),
    "a decoder that is false": (setting(decoder=False), "decoder is False, not an object"),
    "a decoder that is an empty text": (setting(decoder=""), "decoder is '', not an object"),
    "another family": (setting(backbone={"model_type": "evil"}), "model_type is 'evil'"),
    "a billion layers": (
        backbone("text_config", num_hidden_layers=10**9),
        "backbone: text_config.num_hidden_layers is 1000000000",
    ),
    "heads that do not divide": (
        backbone("text_config", num_attention_heads=5),
        "is not a multiple of 5 heads",
    ),
    "a contract of another K": (contract(n_reason=3), "n_reason is 3 in contract.json"),
    "an adapter that is a file": (
        lambda folder: (folder / "adapter").write_text("x"),
        "adapter: is not a folder",
    ),
    "an adapter elsewhere": (linked_adapter, "adapter: is not a folder"),
    "an adapter without settings": (
        lambda folder: (folder / "adapter").mkdir(),
        "adapter_config.json: is missing",
    ),
}
"""Damages, each with a part of the message that names it."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_checkpoint_is_refused_by_name(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    """It is refused when it is read, in one line."""
    damage, message = FAULTS[name]
    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    damage(folder)
    with pytest.raises(BundleError, match=re.escape(message)):
        load_model(folder, decoder=False)


@pytest.mark.parametrize("steps", [None, -1, "many", 2.5, True])
def test_a_number_of_steps_is_a_whole_number(
    steps: object, checkpoint: Path, tmp_path: Path
) -> None:
    """The exporter decides by it whether the model is trained."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    assert steps_of(folder) == 16
    setting(steps=steps)(folder)
    with pytest.raises(BundleError, match="steps is"):
        steps_of(folder)


def test_without_their_checks_damages_pass_or_end_elsewhere(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a matrix of NaN is loaded, and a file in the adapter's place is ignored."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    FAULTS["NaN"][0](folder)
    monkeypatch.setattr(checkpoint_files, "check_finite", lambda *_: None)
    weights = load_model(folder, decoder=False)[0].state_dict()
    assert weights[MATRIX].isnan().all()
    FAULTS["an adapter that is a file"][0](folder)
    monkeypatch.setattr(checkpoint_files, "check_files", lambda _: None)
    with pytest.raises(BundleError, match=r"cannot be read|is missing"):
        load_model(folder, decoder=False)
    FAULTS["a contract of another K"][0](folder)
    (folder / "adapter").unlink()
    monkeypatch.setattr(checkpoint_files, "check_contract", lambda *_: None)
    model, preparer = load_model(folder, decoder=False)
    assert preparer.contract.tokens.n_reason != model.n_reason
