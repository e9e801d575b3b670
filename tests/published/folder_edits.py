"""Changes of a good Sentence Transformers folder, each of a single thing."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lame_runtime.errors import BundleError, UsageError
from lame_training.published.import_embedder import ImportLimits, import_embedder
from safetensors.torch import load_file, save_file

Edit = Callable[[Path], object]
MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
OPTIONS = "sentence_bert_config.json"
POOLING = "1_Pooling/config.json"
PACKAGE = "sentence_transformers"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"
KEPT = (MODULES, SETTINGS, "1_Pooling", "2_Normalize")
"""Names of what stands beside the backbone in a folder."""
SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
"""The text of an input, in a post-processor."""
TANH = "torch.nn.modules.activation.Tanh"


def copied(good: Path, folder: Path) -> Path:
    """Returns a copy of a folder that shares its files, until an edit replaces one."""
    return Path(shutil.copytree(good, folder, copy_function=os.link))


def write(folder: Path, name: str, value: Any) -> None:
    """Replaces a file by a text, or by JSON."""
    path = folder / name
    # never through the link: the good folder has the same file
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def read(folder: Path, name: str) -> Any:
    """Returns the value of a JSON file."""
    return json.loads((folder / name).read_text(encoding="utf-8"))


def refused(folder: Path, pattern: str, limits: ImportLimits | None = None) -> None:
    """Asserts that an import ends in one line, which matches, and leaves nothing behind."""
    checkpoint = folder.parent / "out" / "checkpoint"
    with pytest.raises((BundleError, UsageError)) as caught:
        import_embedder(folder, checkpoint, limits or ImportLimits())
    message = str(caught.value)
    assert re.search(pattern, message), message
    assert message.isprintable()
    assert len(message) < 900
    assert not checkpoint.parent.exists()


def text(name: str, value: Any) -> Edit:
    """Returns the edit that replaces a file."""
    return lambda folder: write(folder, name, value)


def fields(name: str, **values: Any) -> Edit:
    """Returns the edit that sets fields of a JSON file; None as a value is null."""
    return lambda folder: write(folder, name, {**read(folder, name), **values})


def without(name: str, *keys: str) -> Edit:
    """Returns the edit that removes fields of a JSON file."""
    return lambda folder: write(
        folder, name, {key: value for key, value in read(folder, name).items() if key not in keys}
    )


def gone(*names: str) -> Edit:
    """Returns the edit that removes files or folders."""

    def remove(folder: Path) -> None:
        for name in names:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    return remove


def both(*edits: Edit) -> Edit:
    """Returns the edit that makes several in turn."""

    def make(folder: Path) -> None:
        for edit in edits:
            edit(folder)

    return make


def module(number: int, **values: Any) -> Edit:
    """Returns the edit that sets fields of an entry of modules.json."""

    def change(folder: Path) -> None:
        listed = read(folder, MODULES)
        listed[number].update(values)
        write(folder, MODULES, listed)

    return change


def order(*kinds: str) -> Edit:
    """Returns the edit that lists modules of other classes."""
    listed = [
        {"idx": number, "name": str(number), "path": f"{number}_{kind}" if number else ""}
        | {"type": f"{PACKAGE}.models.{kind}"}
        for number, kind in enumerate(kinds)
    ]
    return text(MODULES, listed)


def template(source: str) -> Edit:
    """Returns the edit that replaces the chat template."""
    return text("chat_template.jinja", source)


def replaced(old: str, new: str) -> Edit:
    """Returns the edit that replaces a part of the chat template."""

    def change(folder: Path) -> None:
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        assert old in source
        write(folder, "chat_template.jinja", source.replace(old, new))

    return change


def blocked(name: str, make: Callable[[Path], object]) -> Edit:
    """Returns the edit that puts a folder or a pipe in the place of a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def refused_case(case: tuple[Edit, str], good: Path, scratch: Path) -> None:
    """Checks that a copy of a good folder is refused once an edit has changed it."""
    edit, pattern = case
    folder = copied(good, scratch / "folder")
    edit(folder)
    refused(folder, pattern)


def truncated(folder: Path) -> None:
    """Leaves the first half of the weights, as an interrupted download does."""
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def changed_weights(change: Callable[[dict[str, Any]], object]) -> Edit:
    """Returns the edit that changes the tensors of the backbone."""

    def make(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        (folder / WEIGHTS).unlink()
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return make


def sharded(missing: bool = False) -> Edit:
    """Returns the edit that spreads the weights over two files with an index."""

    def make(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = sorted(tensors)
        places = {}
        for number, part in enumerate((names[::2], names[1::2]), 1):
            file = f"model-0000{number}-of-00002.safetensors"
            places.update(dict.fromkeys(part, file))
            if not missing or number == 1:
                save_file({name: tensors[name] for name in part}, folder / file)
        write(folder, f"{WEIGHTS}.index.json", {"metadata": {}, "weight_map": places})

    return make


def dense(weights: dict[str, Any], **values: Any) -> Edit:
    """Returns the edit that adds a dense layer of 64 to 24 values."""
    config = {"in_features": 64, "out_features": 24, "bias": False, "activation_function": TANH}

    def make(folder: Path) -> None:
        order("Transformer", "Pooling", "Dense", "Normalize")(folder)
        write(folder, "2_Dense/config.json", {**config, **values})
        if weights:
            save_file(weights, folder / "2_Dense/model.safetensors")

    return make


def tokenizer(change: Any) -> Edit:
    """Returns the edit that changes the object of tokenizer.json."""

    def make(folder: Path) -> None:
        raw = read(folder, TOKENIZER)
        change(raw)
        write(folder, TOKENIZER, raw)

    return make


def size(raw: dict[str, Any]) -> int:
    """Returns the number of tokens of a tokenizer."""
    return len(raw["model"]["vocab"].keys() | {entry["content"] for entry in raw["added_tokens"]})


def processed(single: list[Any], token: str = "<|endoftext|>", number: int = 0) -> Edit:
    """Returns the edit that adds a post-processor."""
    added = {token: {"id": token, "ids": [number], "tokens": [token]}}
    step = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": added}
    return tokenizer(lambda raw: raw.update(post_processor=step))


def special(token: str) -> dict[str, Any]:
    """Returns a token of a post-processor."""
    return {"SpecialToken": {"id": token, "type_id": 0}}


def as_adapter(*beside: str) -> Edit:
    """Returns the edit that makes the backbone an adapter that changes nothing.

    Args:
        beside: names of the base's files that are written beside the adapter as well.
    """

    def make(folder: Path) -> None:
        base = folder.parent / "base"
        base.mkdir()
        for path in list(folder.iterdir()):
            if path.name not in (*KEPT, OPTIONS):
                path.rename(base / path.name)
        for name in beside:
            shutil.copy(base / name, folder / name)
        settings = {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 4,
            "target_modules": ["layers.0.self_attn.q_proj"],
            "base_model_name_or_path": str(base),
        }
        write(folder, "adapter_config.json", settings)
        name = "language_model.layers.0.self_attn.q_proj"
        weights = load_file(base / WEIGHTS)
        (out, width), *_ = (w.shape for key, w in weights.items() if key.endswith(f"{name}.weight"))
        layer = f"base_model.model.{name}"
        factors = {
            f"{layer}.lora_A.weight": torch.ones(2, width),
            f"{layer}.lora_B.weight": torch.zeros(out, 2),
        }
        save_file(factors, folder / "adapter_model.safetensors")

    return make
