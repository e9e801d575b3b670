"""A folder that cannot be imported is refused in one line, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lame_runtime.errors import BundleError, LameError, UsageError
from lame_training.__main__ import main
from lame_training.published.folder_kind import folder_kind
from lame_training.published.import_embedder import ImportLimits, import_embedder
from lame_training.published.sample_embedder import write_sample_embedder
from safetensors.torch import load_file, save_file

Change = Callable[[Path], Any]
SETTINGS, OPTIONS = "config_sentence_transformers.json", "sentence_bert_config.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder that can be imported; the control that imports it is below."""
    folder = tmp_path_factory.mktemp("good") / "embedder"
    write_sample_embedder("qwen3_vl", folder)
    return folder


def edit(name: str, **changes: Any) -> Change:
    """Returns a function that sets fields of a JSON file; `...` removes one."""

    def change(folder: Path) -> None:
        raw = json.loads((folder / name).read_text(encoding="utf-8"))
        for key, value in changes.items():
            raw.pop(key, None)
            if value is not ...:
                raw[key] = value
        (folder / name).write_text(json.dumps(raw), encoding="utf-8")

    return change


def put(name: str, text: str) -> Change:
    """Returns a function that writes a file."""
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def template(old: str, new: str) -> Change:
    """Returns a function that replaces a part of the chat template."""

    def change(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        source = path.read_text(encoding="utf-8")
        assert old in source
        path.write_text(source.replace(old, new), encoding="utf-8")

    return change


def module(place: int, **changes: Any) -> Change:
    """Returns a function that changes an entry of `modules.json`."""

    def change(folder: Path) -> None:
        path = folder / "modules.json"
        listed = json.loads(path.read_text(encoding="utf-8"))
        listed[place].update(changes)
        path.write_text(json.dumps(listed), encoding="utf-8")

    return change


def modules(*names: str) -> Change:
    """Returns a function that lists modules of Sentence Transformers, each in a folder."""
    kinds = [f"sentence_transformers.models.{name}" for name in names]
    listed = [
        {"idx": place, "name": str(place), "path": f"{place}_{name}" if place else "", "type": kind}
        for place, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    return put("modules.json", json.dumps(listed))


def dense(weights: dict[str, Any] | None, **changes: Any) -> Change:
    """Returns a function that adds a dense layer to 8 values."""

    def change(folder: Path) -> None:
        modules("Transformer", "Pooling", "Dense", "Normalize")(folder)
        inner = folder / "2_Dense"
        inner.mkdir()
        config = {"in_features": 64, "out_features": 8, "bias": True}
        config["activation_function"] = "torch.nn.modules.activation.Tanh"
        (inner / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
        if weights is not None:
            save_file(weights, inner / "model.safetensors")

    return change


def cut_weights(folder: Path) -> None:
    """Cuts the weights, as a download that was interrupted does."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def renamed_weights(name: str) -> Change:
    """Returns a function that gives the weights another name."""
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def removed(name: str) -> Change:
    """Returns a function that removes a file or folder."""

    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def linked_outside(folder: Path) -> None:
    """Replaces a module's folder by a link that leads outside."""
    (folder / "1_Pooling").rename(folder.parent / "elsewhere")
    (folder / "1_Pooling").symlink_to(folder.parent / "elsewhere")


def as_folder(folder: Path) -> None:
    """Puts a folder in the place of a file."""
    (folder / SETTINGS).unlink()
    (folder / SETTINGS).mkdir()


def as_pipe(folder: Path) -> None:
    """Puts a pipe, which would never end, in the place of a file."""
    (folder / "modules.json").unlink()
    os.mkfifo(folder / "modules.json")


MESSAGE = {"method": "forward", "method_output_name": "last_hidden_state", "format": "structured"}
RIGHT = {"linear.weight": torch.zeros(8, 64), "linear.bias": torch.zeros(8)}
TURNS = "{% for m in messages %}{{ m.role }}{% for c in m.content %}{{ c.text }}{% endfor %}"
CASES: dict[str, tuple[Change, str]] = {
    "code of its own": (module(1, type="custom.Pooling"), "code of its own, which is never run"),
    "router": (modules("Router", "Pooling"), "modules are Router, Pooling; supported"),
    "weighted layers": (modules("Transformer", "WeightedLayerPooling", "Pooling"), "supported:"),
    "no pooling": (modules("Transformer", "Normalize"), "modules are Transformer, Normalize"),
    "another order": (modules("Pooling", "Transformer"), "modules are Pooling, Transformer"),
    "two poolings": (modules("Transformer", "Pooling", "Pooling"), "supported:"),
    "no modules": (put("modules.json", "[]"), "its modules are ; supported"),
    "not JSON": (put("modules.json", "[{"), r"modules\.json: cannot be read"),
    "no list": (put("modules.json", "{}"), "is not a list of modules"),
    "no objects": (put("modules.json", "[1]"), "is not a list of modules"),
    "a pipe": (as_pipe, r"modules\.json: cannot be read"),
    "no name": (module(1, path=None), "names the folder None"),
    "an absolute name": (module(1, path="/etc"), "names the folder '/etc'"),
    "a name above": (module(1, path="../x"), r"names the folder '\.\./x'"),
    "a link": (linked_outside, "is a link that leads outside"),
    "no pooling folder": (removed("1_Pooling"), r"1_Pooling.config\.json: is missing"),
    "a folder for a file": (as_folder, f"{SETTINGS}: cannot be read"),
    "first token": (edit("1_Pooling/config.json", pooling_mode="cls"), "pooling_mode is 'cls'"),
    "two at once": (edit("1_Pooling/config.json", pooling_mode=["mean", "max"]), "pooling_mode is"),
    "odd pooling": (edit("1_Pooling/config.json", pooling_mode={}), "pooling_mode is {}"),
    "another width": (edit("1_Pooling/config.json", embedding_dimension=32), "of 32 values"),
    "two switches": (
        edit(
            "1_Pooling/config.json",
            pooling_mode=...,
            pooling_mode_lasttoken=True,
            pooling_mode_mean_tokens=True,
        ),
        "pooling_mode is ",
    ),
    "texts alone": (
        edit(OPTIONS, modality_config={"text": MESSAGE}),
        "has no 'message', so it takes texts alone",
    ),
    "an old text model": (edit(OPTIONS, modality_config=...), "takes texts alone"),
    "flat messages": (
        edit(OPTIONS, modality_config={"message": {**MESSAGE, "format": "flat"}}),
        "format of messages is 'flat'",
    ),
    "a cross encoder": (edit(OPTIONS, transformer_task="text-generation"), "not an embedder"),
    "another way to load": (edit(OPTIONS, model_kwargs={"num_labels": 2}), "sets num_labels"),
    "odd loading": (edit(OPTIONS, model_kwargs=[1]), "model_kwargs is "),
    "odd processing": (edit(OPTIONS, processing_kwargs=[1]), "processing_kwargs is "),
    "processing of pictures": (
        edit(OPTIONS, processing_kwargs={"image": {"do_resize": False}}),
        r"processing_kwargs\.image sets do_resize",
    ),
    "odd template settings": (
        edit(OPTIONS, processing_kwargs={"chat_template": [1]}),
        r"processing_kwargs\.chat_template is ",
    ),
    "no such default": (edit(SETTINGS, default_prompt_name="x"), "none of its prompts"),
    "odd default": (edit(SETTINGS, default_prompt_name=[1]), "none of its prompts"),
    "odd prompts": (edit(SETTINGS, prompts=["a"]), "expected texts by name"),
    "a prompt that is no text": (edit(SETTINGS, prompts={"query": 1}), "expected texts by name"),
    "no length": (edit(SETTINGS, truncate_dim=0), "truncate_dim is 0; expected"),
    "too long": (edit(SETTINGS, truncate_dim=65), "truncate_dim is 65; its vectors have 64"),
    "a text for a number": (edit(SETTINGS, truncate_dim="8"), "truncate_dim is '8'"),
    "a negative limit": (edit(OPTIONS, max_seq_length=-1), "max_seq_length is -1"),
    "bert": (edit("config.json", model_type="bert"), "model_type is 'bert'; supported are"),
    "another picture token": (edit("config.json", image_token_id=9), "belong to two models"),
    "no template": (removed("chat_template.jinja"), "has no chat template"),
    "a template that fails": (put("chat_template.jinja", "{{ 1 / 0 }}"), "cannot be rendered"),
    "no system messages": (
        put(
            "chat_template.jinja",
            "{% for m in messages %}{% if m.role == 'user' %}{% for c in m.content %}"
            "{% if c.type == 'text' %}{{ c.text }}{% else %}<|{{ c.type }}_pad|>{% endif %}"
            "{% endfor %}<|im_end|>{% endif %}{% endfor %}",
        ),
        "does not print a system message",
    ),
    "no end": (put("chat_template.jinja", TURNS + "{% endfor %}"), "its chat template"),
    "queries apart": (
        template("'<|im_start|>assistant", "(task or '') ~ '<|im_start|>assistant"),
        "prints queries and documents differently",
    ),
    "numbered pictures": (
        template("'<|vision_start|><|'", "loop.index ~ '<|vision_start|><|'"),
        "does not place <.image_pad.> at the position",
    ),
    "a beginning by the tokenizer": (
        edit("tokenizer_config.json", add_bos_token=True),
        "sets add_bos_token",
    ),
    "no tokenizer": (removed("tokenizer.json"), r"tokenizer\.json"),
    "no weights": (removed("model.safetensors"), "no weights"),
    "pickled weights": (renamed_weights("pytorch_model.bin"), "pickled weights, which are never"),
    "half a file": (cut_weights, r"model\.safetensors"),
    "another activation": (
        dense(RIGHT, activation_function="torch.nn.modules.activation.GELU"),
        r"activation_function is 'torch\.nn\.modules\.activation\.GELU'",
    ),
    "odd activation": (dense(RIGHT, activation_function=[1]), "activation_function is "),
    "residual": (dense(RIGHT, use_residual=True), "use_residual is True"),
    "another input": (dense(RIGHT, in_features=32), "in_features is 32; supported is 64"),
    "another output": (dense(RIGHT, out_features=9), "its weights are "),
    "odd output": (dense(RIGHT, out_features="8"), "out_features is '8'"),
    "no dense weights": (dense(None), "no weights"),
    "not a number": (
        dense({**RIGHT, "linear.bias": torch.full((8,), float("nan"))}),
        "linear.bias",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_that_cannot_be_imported_is_refused(
    name: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the file and what is wrong; no checkpoint is left."""
    change, message = CASES[name]
    folder = tmp_path / "embedder"
    shutil.copytree(good, folder, copy_function=os.link)
    for path in folder.rglob("*.json*"):  # edited below, so no longer the good folder's own
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    jinja = folder / "chat_template.jinja"
    source = jinja.read_text(encoding="utf-8")
    jinja.unlink()
    jinja.write_text(source, encoding="utf-8")
    change(folder)
    with pytest.raises(BundleError, match=message) as refusal:
        import_embedder(folder, tmp_path / "checkpoint")
    assert "\n" not in str(refusal.value)
    assert main(["import", str(folder), str(tmp_path / "checkpoint")]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert sum(line.startswith("error:") for line in error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir() if "checkpoint" in path.name] == []


MODELS = {
    "a CLIP model": ({"model_type": "clip"}, "is a clip model; supported backbones are"),
    "ColPali": ({"model_type": "colpali"}, "a vector for each token"),
    "ColQwen2": (
        {"model_type": "qwen2_vl", "architectures": ["ColQwen2ForRetrieval"]},
        "a vector for each token",
    ),
    "remote code": ({"model_type": "gme", "auto_map": {"AutoModel": "a.B"}}, "code of its own"),
    "a backbone": ({"model_type": "qwen3_vl"}, "does not say how its vectors are pooled"),
    "odd architectures": ({"model_type": "clip", "architectures": 5}, "is a clip model"),
}


@pytest.mark.parametrize("name", MODELS)
def test_other_models_are_named(name: str, tmp_path: Path) -> None:
    """A folder without `modules.json` is told apart by its config."""
    config, message = MODELS[name]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        folder_kind(tmp_path)


def test_an_adapter_alone_does_not_say_how_it_is_pooled(tmp_path: Path) -> None:
    """A folder without anything counts as a checkpoint, whose reader says what is missing."""
    assert folder_kind(tmp_path) == "checkpoint"
    assert folder_kind(tmp_path / "missing") == "checkpoint"
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"holds an adapter without modules\.json"):
        folder_kind(tmp_path)


def test_the_good_folder_and_its_older_forms_are_imported(good: Path, tmp_path: Path) -> None:
    """The control; and class names, switches, places and types that other releases write."""
    whole = import_embedder(good, tmp_path / "checkpoint")
    folder = tmp_path / "old"
    shutil.copytree(good, folder)
    modules("Transformer", "Pooling", "Normalize")(folder)
    switches = {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    edit("1_Pooling/config.json", pooling_mode=..., embedding_dimension=..., **switches)(folder)
    shutil.rmtree(folder / "2_Normalize")
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        if path.name not in ("modules.json", SETTINGS):
            path.rename(inner / path.name)
    module(0, path="0_Transformer")(folder)
    weights = load_file(inner / "model.safetensors")
    halves = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    save_file(halves, inner / "model.safetensors", {"format": "pt"})
    edit("0_Transformer/config.json", dtype="bfloat16")(folder)
    source = (inner / "chat_template.jinja").read_text(encoding="utf-8")
    (inner / "chat_template.jinja").unlink()
    edit("0_Transformer/tokenizer_config.json", chat_template=source)(folder)
    assert import_embedder(folder, tmp_path / "older") == whole
    stored = load_file(tmp_path / "older/model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    (folder / SETTINGS).unlink()
    bare = import_embedder(folder, tmp_path / "bare")
    assert bare.prompt.roles == {"query": "", "document": ""}


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({"max_length": 0}, UsageError, "max_length"),
        ({"max_length": True}, UsageError, "max_length"),
        ({"max_length": "8"}, UsageError, "max_length"),
        ({"max_length": 1 << 24}, UsageError, "the limit of .* is "),
        ({"max_pixels": 0}, UsageError, "max_pixels"),
        ({"max_pixels": 8}, BundleError, "pixel budget below 1024"),
    ],
)
def test_limits_that_cannot_be_are_refused(
    limits: dict[str, Any], error: type[LameError], message: str, good: Path, tmp_path: Path
) -> None:
    """By name, and nothing is written."""
    with pytest.raises(error, match=message):
        import_embedder(good, tmp_path / "checkpoint", ImportLimits(**limits))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_overwritten(good: Path, tmp_path: Path) -> None:
    """Neither another one nor the model's own."""
    for target in (good, tmp_path):
        with pytest.raises(LameError, match="already exists"):
            import_embedder(good, target)
    assert folder_kind(good) == "sentence-transformers"
