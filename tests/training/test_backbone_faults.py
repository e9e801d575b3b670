"""A backbone folder that cannot be used ends in one line that says why, and in no checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lame_runtime.errors import BundleError
from lame_training.__main__ import main
from lame_training.model.checkpoint import load_model
from lame_training.recipes.catalog import find_recipe
from lame_training.run.initialization import initialize
from safetensors.torch import load_file, save_file
from samples import edit_json

Damage = Callable[[Path], object]
"""A function that damages the backbone folder it is given."""


def remove_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[sorted(weights)[0]]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def add_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["visual.extra.weight"] = weights[sorted(weights)[0]].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def replace(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def template(text: str) -> Damage:
    return replace("chat_template.jinja", text.encode())


def config(**changes: object) -> Damage:
    return lambda folder: edit_json(folder / "config.json", **changes)


def pictures(**changes: object) -> Damage:
    return lambda folder: edit_json(folder / "preprocessor_config.json", **changes)


def videos(**changes: object) -> Damage:
    return lambda folder: edit_json(folder / "video_preprocessor_config.json", **changes)


def name_no_template_default(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    templates = {"chat_template": [{"name": "tools"}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(templates))


def bring_code(folder: Path) -> None:
    """Makes a config that asks for code of the folder to be run."""
    (folder / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    edit_json(
        folder / "config.json",
        auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
        model_type="evil",
    )


def rename_a_token(folder: Path) -> None:
    """Makes a tokenizer that lacks a token of the prompt."""
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|video_pad|>", "<|movie_pad|>"))


# a safetensors file begins with the length of its header, in eight bytes
TRUNCATED = b"\x10\0\0\0"
FAULTS: dict[str, tuple[Damage, str]] = {
    "another family": (
        config(model_type="llava"),
        "supported are qwen2_vl, qwen2_5_vl, qwen3_vl",
    ),
    "code of its own": (bring_code, "model_type is 'evil'"),
    "no config": (remove("config.json"), "has no config.json"),
    "a config that is not JSON": (replace("config.json", b"{"), "cannot be read"),
    "a list as config": (replace("config.json", b"[]"), "not a JSON object"),
    "an invalid config": (
        config(text_config={"hidden_size": "wide"}),
        "not a config of qwen2_vl",
    ),
    "no weights": (remove("model.safetensors"), "holds no weights"),
    "pickled weights": (pickle_weights, "pickled weights, which are never loaded"),
    "a missing weight": (remove_weight, "lacks the weight"),
    "an extra weight": (add_weight, "unknown weight"),
    "truncated weights": (replace("model.safetensors", TRUNCATED), "cannot be read"),
    "no tokenizer": (remove("tokenizer.json"), "copy the backbone's tokenizer.json again"),
    "a missing token": (rename_a_token, "tokenizer.json: has no token <|video_pad|>"),
    "other special tokens": (config(image_token_id=3), "they belong to two models"),
    "another patch size": (pictures(patch_size=7), "they belong to two models"),
    # 2 is Pillow's bilinear filter
    "another filter": (pictures(resample=2), "supported is 3"),
    "a null rescale factor": (pictures(rescale_factor=None), "cannot be used"),
    "a single mean": (pictures(image_mean=0.5), "cannot be used"),
    "a fixed size": (pictures(size={"height": 448}), "is not a pixel budget"),
    "a std of zero": (pictures(image_std=[0, 0, 0]), "a std that is not positive"),
    "no frames": (videos(max_frames=0), "cannot be used"),
    "other patches for videos": (videos(patch_size=7), "videos are cut by"),
    "templates without a default": (name_no_template_default, "none called default"),
    "a template that is not text": (
        replace("chat_template.jinja", b"\xff\xfe"),
        "cannot be read",
    ),
    "a template for texts": (
        template("{{ messages[0].content[0].text }}<|im_end|>"),
        "does not place",
    ),
    "a broken template": (template("{% for %}"), "cannot be rendered"),
    "a template that runs code": (
        template("{{ ''.__class__.__mro__ }}"),
        "cannot be rendered|does not print",
    ),
}
"""Damages, each with a part of the message that names it; `|` separates alternatives."""


@pytest.fixture
def qwen2(backbones: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the Qwen2-VL folder that a test may damage."""
    return Path(shutil.copytree(backbones["qwen2_vl"], tmp_path / "backbone"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_folder_ends_in_one_line_and_no_checkpoint(
    name: str, qwen2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The message says what is wrong, the exit code is 2, and no checkpoint is written."""
    damage, message = FAULTS[name]
    damage(qwen2)
    command = ["run", "digits-tiny", "--backbone", str(qwen2), "--steps", "0"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert any(part in errors[0] for part in message.split("|")), errors
    assert not (tmp_path / "out/config.json").exists()


def test_a_decoder_must_read_the_backbones_tokens(
    qwen2: Path, backbones: dict[str, Path], tmp_path: Path
) -> None:
    """Another architecture, too few tokens, or another tokenizer are refused."""
    from lame_training.contract_from.tokenizer_training import train_tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    recipe = find_recipe("digits-tiny")
    with pytest.raises(BundleError, match="a latent decoder is a qwen3 model"):
        initialize(recipe, tmp_path / "a", qwen2, backbones["qwen3_vl"])
    shape = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
        "num_key_value_heads": 1,
    }
    # fewer tokens than the backbone's tokenizer has
    small = Qwen3ForCausalLM(Qwen3Config(vocab_size=100, **shape))
    small.save_pretrained(tmp_path / "small")
    with pytest.raises(BundleError, match="knows 100 tokens"):
        initialize(recipe, tmp_path / "b", qwen2, tmp_path / "small")
    # enough tokens, but another vocabulary
    Qwen3ForCausalLM(Qwen3Config(vocab_size=400, **shape)).save_pretrained(tmp_path / "other")
    train_tokenizer(["quick brown fox"] * 9, 400, tmp_path / "other/tokenizer.json")
    with pytest.raises(BundleError, match="its tokenizer is not the backbone's"):
        initialize(recipe, tmp_path / "c", qwen2, tmp_path / "other")
    shutil.copy(qwen2 / "tokenizer.json", tmp_path / "other/tokenizer.json")
    initialize(recipe, tmp_path / "d", qwen2, tmp_path / "other")
    assert load_model(tmp_path / "d")[0].decoder.config.hidden_size == 32  # type: ignore[union-attr]
