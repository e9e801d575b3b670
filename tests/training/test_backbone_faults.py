"""A backbone folder that cannot be used ends in one line that says why, and in no checkpoint."""

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
from lame_training.__main__ import main
from lame_training.contract_from import render_template
from lame_training.model.backbones import FAMILIES, load_backbone, read_config
from lame_training.model.checkpoint import load_model
from lame_training.model.from_disk import limited_process
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


def inner(part: str, **changes: object) -> Damage:
    """Changes settings of one part of the config; None removes a setting."""

    def damage(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        content[part] = {**content[part], **changes}
        path.write_text(json.dumps(content))

    return damage


def tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """Changes the first matrix of the weights."""

    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        name = next(name for name, value in sorted(weights.items()) if value.ndim == 2)
        weights[name] = change(weights[name]).contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def index_that_names(name: str) -> Damage:
    """Moves the weights out of their file, and names another one in an index."""

    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
        torch.save(weights, folder / "pytorch_model.bin")
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


def link_out(name: str) -> Damage:
    """Moves a file out of the folder and leaves a link to it."""

    def damage(folder: Path) -> None:
        (folder / name).rename(folder.parent / f"outside-{name}")
        (folder / name).symlink_to(folder.parent / f"outside-{name}")

    return damage


def pipe(name: str) -> Damage:
    """Puts a pipe, which nobody writes to, in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def huge_header(folder: Path) -> None:
    """Writes a file of weights that says its header has 2^60 bytes."""
    (folder / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")


def outside_offsets(folder: Path) -> None:
    """Writes a file of weights with a tensor beyond its end."""
    header = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [1 << 40, (1 << 40) + 16]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))


def add_adapter_config(folder: Path) -> None:
    """Puts the settings of an adapter beside a model, which transformers would load."""
    settings = {"peft_type": "LORA", "base_model_name_or_path": "elsewhere"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def name_no_template_default(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    templates = {"chat_template": [{"name": "tools"}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(templates))


def template_in_json(value: object) -> Damage:
    """Moves the template to the settings of the tokenizer, where it is no template."""

    def damage(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))

    return damage


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
        "text_config.hidden_size is 'wide'",
    ),
    "no weights": (remove("model.safetensors"), "holds no weights"),
    "pickled weights": (pickle_weights, "pickled weights, which are never loaded"),
    "a missing weight": (remove_weight, "lacks the weight"),
    "an extra weight": (add_weight, "unknown weight"),
    "truncated weights": (replace("model.safetensors", TRUNCATED), "cannot be read"),
    "an index of a pickle": (index_that_names("pytorch_model.bin"), "only safetensors are read"),
    "an index that leads outside": (
        index_that_names("../elsewhere.safetensors"),
        "is not a file of this folder",
    ),
    "an index with a whole path": (
        index_that_names("/elsewhere/a.safetensors"),
        "is not a file of this folder",
    ),
    "an index of a missing file": (index_that_names("a.safetensors"), "cannot be read"),
    "an index of a name of 5,000 letters": (
        index_that_names(f"{'a' * 5000}.safetensors"),
        f"{'a' * 20}.safetensors: cannot be read",
    ),
    "a tokenizer that is a link to the outside": (link_out("tokenizer.json"), "leads outside"),
    "a template that is a number": (template_in_json(7), "chat_template is 7; expected a text"),
    "a template that is an object": (
        template_in_json({"default": "x" * 5000}),
        "chat_template is {'default': 'x",
    ),
    "a checkpoint": (
        replace("config.json", b'{"backbone": {"model_type": "qwen2_vl"}, "dim": 8}'),
        "describes a checkpoint that lame-train wrote, not a backbone",
    ),
    "weights that are a link to the outside": (
        link_out("model.safetensors"),
        "a link that leads outside",
    ),
    "a config that is a link to the outside": (link_out("config.json"), "leads outside"),
    "weights that are a pipe": (pipe("model.safetensors"), "is a pipe"),
    "a config that is a pipe": (pipe("config.json"), "is a pipe"),
    "a template that is a pipe": (pipe("chat_template.jinja"), "is a pipe"),
    "a config that is nested too deeply": (
        replace("config.json", b"[" * 100_000),
        "nested too deeply",
    ),
    "a header of exabytes": (huge_header, "model.safetensors: cannot be read"),
    "a tensor beyond the file": (outside_offsets, "model.safetensors: cannot be read"),
    "a matrix of integers": (tensor(lambda value: value.to(torch.int32)), "is of type I32"),
    "a matrix of NaN": (tensor(lambda value: value * float("nan")), "holds NaN or an infinity"),
    "an infinity": (tensor(lambda value: value / 0), "holds NaN or an infinity"),
    "half a matrix": (tensor(lambda value: value[:, ::2]), "in another shape, the weight"),
    "a model and an adapter": (add_adapter_config, "holds a model and an adapter"),
    "quantized weights": (
        config(quantization_config={"quant_method": "bitsandbytes"}),
        "quantization_config is set",
    ),
    "a billion layers": (inner("text_config", num_hidden_layers=10**9), "num_hidden_layers is"),
    "no layers": (inner("vision_config", depth=0), "vision_config.depth is 0"),
    "another activation": (inner("text_config", hidden_act="evil"), "hidden_act is 'evil'"),
    "a type that is a function": (inner("text_config", dtype="load"), "dtype is 'load'"),
    "a NaN": (
        replace("config.json", b'{"model_type": "qwen2_vl", "image_token_id": NaN}'),
        "NaN is not a number",
    ),
    "heads that do not divide": (
        inner("text_config", num_attention_heads=3),
        "hidden_size 64 is not a multiple of 3 heads",
    ),
    "key heads that do not divide": (
        inner("text_config", num_key_value_heads=3),
        "is not a multiple of 3 key/value heads",
    ),
    "axes that do not add up": (
        inner("text_config", rope_parameters={"rope_theta": 1e4, "mrope_section": [1, 1, 1]}),
        "mrope_section [1, 1, 1] does not add up",
    ),
    "a window of the language model": (
        inner("text_config", use_sliding_window=True, sliding_window=8),
        "use_sliding_window is True",
    ),
    "attention in both directions": (
        inner("text_config", is_causal=False),
        "is_causal is False; expected True",
    ),
    "the same at the upper level": (
        config(use_bidirectional_attention=True),
        "use_bidirectional_attention is True; expected False",
    ),
    "a tower of another width": (
        inner("vision_config", hidden_size=32),
        "vision_config.hidden_size is 32",
    ),
    "an image token beyond the vocabulary": (
        config(image_token_id=4_000_000),
        "image_token_id 4000000 is not below vocab_size",
    ),
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
    "a mean beyond numbers": (pictures(image_mean=[1e300, 0, 0]), "mean"),
    "no patch": (pictures(patch_size=0), "they belong to two models|cannot be used"),
    "a rate that is a text": (videos(fps="\x1b[31m" * 100), "cannot be used"),
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
    "a template without end": (
        template("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"),
        "takes longer than",
    ),
    "a template that fills the memory": (template("{{ 'x' * 10**11 }}"), "too much memory"),
    "a template that prints without end": (template("{{ 'x' * 10**7 }}"), "prints 10,000,000"),
    "a template that counts too far": (template("{{ 9 ** (9 ** 9) }}"), "takes longer than"),
    "a template that is too long": (replace("chat_template.jinja", b" " * (2 << 20)), "larger"),
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


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowers the time limit of templates, which two of the damages use up."""
    monkeypatch.setattr(limited_process, "CPU_SECONDS", 1)


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_folder_ends_in_one_line_and_no_checkpoint(
    name: str, qwen2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The message says what is wrong, the exit code is 2, and no checkpoint is written."""
    damage, message = FAULTS[name]
    damage(qwen2)
    command = ["run", "digits-tiny", "--backbone", str(qwen2), "--steps", "0"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    # nothing that another library says about the folder
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert errors[0].startswith("error:")
    assert any(part in errors[0] for part in message.split("|")), errors
    assert len(errors[0].replace(str(qwen2), "")) < 500
    assert not (tmp_path / "out").exists()


QWEN3_FAULTS = {
    "a level beyond the tower": ({"deepstack_visual_indexes": [0, 99]}, "beyond depth"),
    "a level twice": ({"deepstack_visual_indexes": [1, 1]}, "deepstack_visual_indexes is [1, 1]"),
    "a negative level": ({"deepstack_visual_indexes": [-1]}, "deepstack_visual_indexes is [-1]"),
    "levels that are no list": ({"deepstack_visual_indexes": 3}, "deepstack_visual_indexes is 3"),
    "positions that are no square": (
        {"num_position_embeddings": 63},
        "num_position_embeddings 63 is not a square",
    ),
}
"""Changes of Qwen3-VL's vision config, each with a part of the message that names it."""


@pytest.mark.parametrize("name", QWEN3_FAULTS)
def test_contradictions_of_a_tower_are_named_when_it_is_read(
    name: str, backbones: dict[str, Path], tmp_path: Path
) -> None:
    """Transformers accepts them, and fails in the middle of a forward pass."""
    changes, message = QWEN3_FAULTS[name]
    folder = Path(shutil.copytree(backbones["qwen3_vl"], tmp_path / "backbone"))
    inner("vision_config", **changes)(folder)
    with pytest.raises(BundleError, match=re.escape(message)):
        read_config(folder)


def test_a_window_smaller_than_a_token_is_named(backbones: dict[str, Path], tmp_path: Path) -> None:
    """So is a block with full attention that Qwen2.5-VL's tower does not have."""
    for changes, message in (
        ({"window_size": 5}, "window_size 5 is smaller than a token"),
        ({"fullatt_block_indexes": [50]}, r"fullatt_block_indexes \[50\] names a block beyond"),
    ):
        folder = Path(shutil.copytree(backbones["qwen2_5_vl"], tmp_path / next(iter(changes))))
        inner("vision_config", **changes)(folder)
        with pytest.raises(BundleError, match=message):
            read_config(folder)


def test_a_folder_of_the_hugging_face_cache_is_read(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    """Its files are links to blobs of the same repository, the only links that lead outside."""
    snapshot, blobs = tmp_path / "models--x/snapshots/abc", tmp_path / "models--x/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(backbones["qwen2_vl"].iterdir())):
        shutil.copy(file, blobs / f"{number:040}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040}")
    assert load_backbone(snapshot, "auto").config.model_type == "qwen2_vl"
    # with the tokenizer, which another reader reads
    initialize(find_recipe("digits-tiny"), tmp_path / "out", snapshot)
    # the control: the same links in another place
    shutil.copytree(snapshot, tmp_path / "elsewhere/abc", symlinks=True)
    shutil.copytree(blobs, tmp_path / "blobs")
    with pytest.raises(BundleError, match="leads outside"):
        read_config(tmp_path / "elsewhere/abc")


def test_settings_that_transformers_would_obey_are_not_read(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    """A config could name an attention to download, weights of its own, or replace a method.

    The control builds the config from all settings, and has what the file says.
    """
    folder = Path(shutil.copytree(backbones["qwen2_vl"], tmp_path / "backbone"))
    changes = {
        "attn_implementation": "someone/kernel",
        "transformers_weights": "../elsewhere.safetensors",
        "auto_map": {"AutoModel": "evil.Model"},
        "to_dict": 5,
        "return_dict": False,
    }
    config(**changes)(folder)
    own = read_config(folder)
    assert "someone/kernel" not in vars(own).values()
    assert own.to_dict()["return_dict"] is True
    assert not {"transformers_weights", "auto_map"} & set(own.to_dict())
    plain = FAMILIES["qwen2_vl"].config(**json.loads((folder / "config.json").read_text()))
    assert plain.to_dict == 5
    assert plain.transformers_weights == changes["transformers_weights"]
    assert load_backbone(folder, "auto").config.return_dict


def test_without_a_limit_a_template_goes_on(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with more time, the loop that is refused above ends."""
    template("{% for a in range(2000) %}{% for b in range(2000) %}{% endfor %}{% endfor %}")(qwen2)
    source = (qwen2 / "chat_template.jinja").read_text() * 40
    question = {"template": source, "conversations": [[]], "variables": {}}
    with pytest.raises(ValueError, match="takes longer than 1 s"):
        limited_process.run_limited(Path(render_template.__file__), question)
    monkeypatch.setattr(limited_process, "CPU_SECONDS", 600)
    question["template"] = (qwen2 / "chat_template.jinja").read_text()
    assert limited_process.run_limited(Path(render_template.__file__), question) == [""]


def test_templates_are_rendered_as_transformers_does() -> None:
    """Published templates use loop controls, `namespace`, `tojson`, and marks of generations."""
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (
        "{% set n = namespace(i=0) %}{% for m in messages %}{% for c in m.content %}\n"
        "  {%- if c.type == 'image' %}{% set n.i = n.i + 1 %}<{{ n.i }}>{% continue %}{% endif %}\n"
        "  {{ c.text | trim }}|{{ c | tojson }}{% endfor %}{% endfor %}\n"
        "{% generation %}{{ 'é<' | tojson }}{% endgeneration %}"
        "{% if add_generation_prompt %}>{% endif %}"
        "{% if tools %}tools{% endif %}"
    )
    content = [{"type": "text", "text": " a é "}, {"type": "image"}, {"type": "text", "text": "b"}]
    turns = [[{"role": "user", "content": content}]]
    for opened in (True, False):
        expected, _ = render_jinja_template(
            turns, chat_template=source, add_generation_prompt=opened
        )
        variables = {"add_generation_prompt": opened}
        question = {"template": source, "conversations": turns, "variables": variables}
        assert render_template.answer(question) == expected


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
