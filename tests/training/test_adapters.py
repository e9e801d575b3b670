"""PEFT adapters are merged into the backbone they were made for, without losing small changes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lame_runtime.errors import BundleError
from lame_training.model.backbones import FAMILIES, load_backbone
from lame_training.model.checkpoint import load_model
from lame_training.model.from_disk import limited_process
from lame_training.model.from_disk.merging import adapter_merge
from lame_training.model.from_disk.merging.adapter_merge import merge_adapter
from lame_training.recipes.catalog import find_recipe
from lame_training.run.initialization import initialize
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from samples import edit_json
from transformers import AutoModelForImageTextToText

WEIGHTS, BASE = "adapter_model.safetensors", "base_model_name_or_path"
Change = Callable[[Path], object]
"""A function that changes the adapter folder it is given."""

# PEFT still uses names that transformers has renamed
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # of a pattern that is to match nothing, and of biases, which have one dimension
    pytest.mark.filterwarnings("ignore:.*keys did not match any:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*have invalid shape:peft.utils.warning.PeftWarning"),
    # what it says about tied tables and saved ones concerns the head, which we leave out
    pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers):UserWarning"),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_adapter_is_merged(family: str, backbones: dict[str, Path], tmp_path: Path) -> None:
    """The result is PEFT's own merge, for an adapter's folder and for one inside a checkpoint."""
    torch.manual_seed(0)
    backbone = backbones[family]
    # PEFT initializes the second factor with zeros by default, which would change nothing
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(load_backbone(backbone, "auto"), config)
    # PEFT records the path in the model's config, which is not that of the folder
    adapted.peft_config["default"].base_model_name_or_path = str(backbone)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted.merge_and_unload().state_dict()
    plain = load_backbone(backbone, "auto").state_dict()
    merged = load_backbone(tmp_path / "adapter", "auto").state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.allclose(merged[name], expected[name], atol=1e-6) for name in merged)
    assert any(not torch.equal(merged[name], plain[name]) for name in merged)
    # an adapter may be merged when a run starts, or lie inside a checkpoint
    initialize(find_recipe("digits-tiny"), tmp_path / "own", tmp_path / "adapter")
    initialize(find_recipe("digits-tiny"), tmp_path / "beside", backbone)
    shutil.copytree(tmp_path / "adapter", tmp_path / "beside/adapter")
    own, beside = (
        load_model(tmp_path / name)[0].backbone.state_dict() for name in ("own", "beside")
    )
    assert all(torch.allclose(own[name], value, atol=1e-6) for name, value in beside.items())


@pytest.mark.parametrize("dora", [False, True])
def test_small_changes_of_an_adapter_survive_bf16_weights(
    dora: bool, backbones: dict[str, Path], tmp_path: Path
) -> None:
    """A BF16 base is merged in FP32, as training added the two.

    The control merges in BF16, in which most of so small a change is lost.
    """

    def adapted() -> Any:
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, use_dora=dora)
        return get_peft_model(load_backbone(backbones["qwen2_vl"], torch.bfloat16), config)

    model = adapted()
    # changes near the resolution of BF16
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1e-3)
    model.save_pretrained(tmp_path / "adapter")
    base = load_backbone(backbones["qwen2_vl"], torch.bfloat16).float().state_dict()
    exact = model.float().merge_and_unload().state_dict()
    errors = {}
    for widen in (False, True):
        merged = merge_adapter(
            load_backbone(backbones["qwen2_vl"], torch.bfloat16), tmp_path / "adapter", widen=widen
        ).state_dict()
        changes = [
            (merged[name].float() - exact[name], exact[name] - base[name])
            for name in base
            if "q_proj.weight" in name
        ]
        errors[widen] = max(float(wrong.norm() / change.norm()) for wrong, change in changes)
        # only the adapted layers are widened
        assert {value.dtype for name, value in merged.items() if "k_proj" in name} == {
            torch.bfloat16
        }
    assert errors[True] < 1e-3
    # with DoRA the change is mostly one of the magnitudes, which are not scaled down above
    assert errors[False] > (4e-3 if dora else 0.3)


def older_keys(folder: Path) -> None:
    """Renames weights as they were called before transformers 4.52."""
    weights = load_file(folder / WEIGHTS)
    renamed = {
        key.replace("model.model.language_model.", "model.model.").replace(
            "model.model.visual.", "model.visual."
        ): value
        for key, value in weights.items()
    }
    save_file(renamed, folder / WEIGHTS)


def without_prefix(folder: Path) -> None:
    """Renames weights as trainers do that save the model's own names."""
    weights = load_file(folder / WEIGHTS)
    save_file(
        {key.removeprefix("base_model.model."): value for key, value in weights.items()},
        folder / WEIGHTS,
    )


def unchanged(folder: Path) -> None:
    """Leaves the weights as PEFT saved them."""


TRAINED: dict[str, tuple[dict[str, Any], Change]] = {
    "LoRA": ({}, unchanged),
    "LoRA with older keys": ({"target_modules": "all-linear"}, older_keys),
    "LoRA without a prefix": ({}, without_prefix),
    "DoRA of all linear layers": ({"target_modules": "all-linear", "use_dora": True}, unchanged),
    "rsLoRA with patterns": (
        {
            "use_rslora": True,
            "rank_pattern": {"layers.0.self_attn.q_proj": 2},
            "alpha_pattern": {r"^.*\.v_proj": 31},
        },
        unchanged,
    ),
    "patterns and older keys": (
        {"rank_pattern": {"language_model.layers.0.self_attn.q_proj": 2}},
        older_keys,
    ),
    "an expression": (
        {"target_modules": r"^(?!.*visual)(?:.*?(?:q_proj|down_proj)).*?"},
        unchanged,
    ),
    "one layer": ({"layers_to_transform": 1, "layers_pattern": "layers"}, unchanged),
    "an excluded tower": (
        {"target_modules": "all-linear", "exclude_modules": ".*visual.*"},
        unchanged,
    ),
    "the tower": ({"target_modules": ["qkv", "proj"]}, unchanged),
    "a saved head": ({"modules_to_save": ["lm_head"]}, unchanged),
    "saved tables": ({"modules_to_save": ["embed_tokens", "lm_head"]}, older_keys),
    "a saved merger and norm": ({"modules_to_save": ["merger", "norm"]}, unchanged),
    "all biases": ({"bias": "all"}, unchanged),
    "an adapted table": ({"target_modules": ["q_proj", "embed_tokens"]}, unchanged),
    "new rows of the table": ({"trainable_token_indices": [9, 3]}, unchanged),
    "a parameter": (
        {"target_modules": ["v_proj"], "target_parameters": ["mlp.down_proj.weight"]},
        unchanged,
    ),
    "a pattern of a parameter": (
        {
            "target_modules": ["v_proj"],
            "target_parameters": ["mlp.down_proj.weight"],
            "rank_pattern": {"layers.0.mlp.down_proj.weight": 2},
            "alpha_pattern": {"layers.1.mlp.down_proj": 64},
        },
        unchanged,
    ),
    "a pattern from the first letter": (
        {"alpha_pattern": {r"^model.language_model.layers.0.self_attn.q_proj": 64}},
        unchanged,
    ),
    "a pattern from the first letter of another class": (
        {
            "alpha_pattern": {
                r"^layers.0.self_attn.q_proj": 64,
                r"^language_model.layers.1.self_attn.q_proj": 64,
                r"^model.layers.0.self_attn.v_proj": 64,
            }
        },
        unchanged,
    ),
    "biases of adapted layers": ({"bias": "lora_only"}, unchanged),
    "biases of factors": ({"lora_bias": True}, unchanged),
    "rows of named tables": (
        {"trainable_token_indices": {"embed_tokens": [9, 3]}},
        unchanged,
    ),
    "PiSSA": ({"init_lora_weights": "pissa"}, unchanged),
}
"""Options of `LoraConfig` on the class with a head, and how the saved weights are renamed."""


def train_adapter(folder: Path, base: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Writes an adapter of random weights, and returns PEFT's own merge by our names."""
    torch.manual_seed(5)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **options}
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(base))
    merged = adapted.merge_and_unload().state_dict()
    return {
        name.removeprefix("model."): value
        for name, value in merged.items()
        if not name.startswith("lm_head.")
    }


@pytest.mark.parametrize("name", TRAINED)
def test_adapters_of_the_class_with_a_head_are_merged_as_by_peft(
    name: str, backbones: dict[str, Path], tmp_path: Path
) -> None:
    """Every bit of the result is PEFT's own, whatever the adapter names and how."""
    options, change = TRAINED[name]
    base = backbones["qwen2_5_vl"]
    expected = train_adapter(tmp_path / "adapter", base, **options)
    change(tmp_path / "adapter")
    merged = load_backbone(tmp_path / "adapter", torch.float32).state_dict()
    assert merged.keys() == expected.keys()
    assert not [key for key, value in merged.items() if not torch.equal(value, expected[key])]
    if name != "a saved head":
        plain = load_backbone(base, torch.float32).state_dict()
        assert any(not torch.equal(value, plain[key]) for key, value in merged.items())


def test_an_adapter_for_a_larger_vocabulary_says_so(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    """Tokens that its base does not have cannot be merged into it."""
    base = tmp_path / "base"
    shutil.copytree(backbones["qwen2_vl"], base)
    train_adapter(tmp_path / "adapter", base, modules_to_save=["embed_tokens"])
    weights = load_file(tmp_path / "adapter" / WEIGHTS)
    name = next(key for key in weights if "embed_tokens" in key)
    weights[name] = torch.cat([weights[name], weights[name][:8]])
    save_file(weights, tmp_path / "adapter" / WEIGHTS)
    with pytest.raises(BundleError, match="with a vocabulary of"):
        load_backbone(tmp_path / "adapter", "auto")


def drop(part: str) -> Change:
    """Removes the weights whose name holds `part`."""

    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        save_file({k: v for k, v in weights.items() if part not in k}, folder / WEIGHTS)

    return change


def add(name: str) -> Change:
    """Adds a weight."""

    def change(folder: Path) -> None:
        save_file({**load_file(folder / WEIGHTS), name: torch.ones(2, 2)}, folder / WEIGHTS)

    return change


def convert(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Changes all weights."""

    def convert_all(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        save_file({k: change(v).contiguous() for k, v in weights.items()}, folder / WEIGHTS)

    return convert_all


def setting(**values: Any) -> Change:
    return lambda folder: edit_json(folder / "adapter_config.json", **values)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def linked(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere.safetensors")
    (folder / WEIGHTS).symlink_to("../elsewhere.safetensors")


def piped(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")


REFUSED: dict[str, tuple[Change, str]] = {
    "another type": (setting(peft_type="IA3"), "peft_type is 'IA3'"),
    "no type": (setting(peft_type=None), "peft_type is 'None'"),
    "prefix tuning": (setting(peft_type="PREFIX_TUNING"), "peft_type is 'PREFIX_TUNING'"),
    "replicated layers": (setting(layer_replication=[[0, 2], [1, 2]]), "layer_replication is"),
    "an activated LoRA": (setting(alora_invocation_tokens=[1]), "alora_invocation_tokens is"),
    "a Megatron config": (setting(megatron_config={"x": 1}), "megatron_config is"),
    "a setting of the future": (setting(use_hyperlora=True), "use_hyperlora is True"),
    "CorDA": (setting(init_lora_weights="corda"), "init_lora_weights is 'corda'"),
    "LoftQ": (setting(init_lora_weights="loftq"), "init_lora_weights is 'loftq'"),
    "a rank of zero": (setting(r=0), "r is 0"),
    "another rank": (setting(r=8), "r is 8 for"),
    "a rank that is a text": (setting(r="8"), "r is '8'"),
    "an alpha beyond numbers": (setting(lora_alpha=10**400), "lora_alpha is"),
    "a number as targets": (setting(target_modules=7), "target_modules is 7"),
    "a broken expression": (setting(target_modules="(q_proj"), "its patterns cannot be matched"),
    "an expression without end": (
        setting(alpha_pattern={"(.*.*.*.*.*.*.*.*.*.*)*x": 3}),
        "takes longer than",
    ),
    "other targets": (setting(target_modules=["k_proj"]), "lacks the adapter weights"),
    "fewer targets": (setting(target_modules=["q_proj"]), "which target_modules does not name"),
    "rows that are not there": (
        setting(trainable_token_indices={"embed_tokens": [10**9]}),
        "which its setting trainable_token_indices names",
    ),
    "biases of a kind that is unknown": (setting(bias="some"), "bias is 'some'; expected one of"),
    "no base": (setting(base_model_name_or_path=None), "no local folder"),
    "a base that is an object": (setting(base_model_name_or_path={"a": 1}), "no local folder"),
    "a base with a null character": (setting(base_model_name_or_path="a\0b"), "no local folder"),
    "a base with a long name": (setting(base_model_name_or_path="a" * 9999), "no local folder"),
    "half of a pair": (drop("layers.0.self_attn.q_proj.lora_B"), "lacks the weight lora_B"),
    "a missing layer": (drop("layers.0.self_attn.q_proj"), "lacks the adapter weights of"),
    "no weights": (drop("lora"), "holds no weights of this model"),
    "an unknown weight": (add("base_model.model.score.weight"), "unknown weight"),
    "a weight of another shape": (
        add("base_model.model.model.language_model.norm.weight"),
        "norm.weight is (2, 2)",
    ),
    "NaN": (convert(lambda value: value * float("nan")), "holds NaN or an infinity"),
    "integers": (convert(lambda value: value.to(torch.int8)), "is of type I8"),
    "one dimension": (convert(torch.flatten), "which do not match"),
    "other widths": (convert(lambda value: value[:, :4][:4]), "check base_model_name"),
    "a pickle": (pickled, "pickled adapter"),
    "a link to the outside": (linked, "leads outside"),
    "a pipe": (piped, "is a pipe"),
}
"""Changes of an adapter, each with a part of the message that names it."""


@pytest.fixture(scope="module")
def plain_adapter(backbones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes an adapter that is merged as it is."""
    folder = tmp_path_factory.mktemp("plain") / "adapter"
    train_adapter(folder, backbones["qwen2_vl"])
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_cannot_be_merged_is_refused_by_name(
    name: str, plain_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is one line, and names the setting or the weight."""
    change, message = REFUSED[name]
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    change(folder)
    monkeypatch.setattr(limited_process, "CPU_SECONDS", 1)
    with pytest.raises(BundleError, match=re.escape(message)) as refusal:
        load_backbone(folder, "auto")
    assert len(str(refusal.value).removeprefix(str(folder))) < 500


def keep(pattern: str) -> Change:
    """Removes the weights whose name holds no match of a pattern."""

    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        kept = {key: value for key, value in weights.items() if re.search(pattern, key)}
        assert 0 < len(kept) < len(weights)
        save_file(kept, folder / WEIGHTS)

    return change


PARAMETERS = {"target_modules": ["v_proj"], "target_parameters": ["k_proj.weight"]}
INCOMPLETE: dict[str, tuple[dict[str, Any], str, str]] = {
    "a saved module": ({"modules_to_save": ["merger"]}, "lora_", "modules_to_save"),
    "half of a saved module": (
        {"modules_to_save": ["merger"]},
        r"lora_|merger\.mlp\.0",
        "modules_to_save",
    ),
    "a saved module of several": (
        {"modules_to_save": ["merger", "embed_tokens"]},
        "lora_|merger",
        "embed_tokens.weight (1 in all), which its setting modules_to_save",
    ),
    "new rows": ({"trainable_token_indices": [9, 3]}, "lora_", "trainable_token_indices"),
    "all biases": ({"bias": "all"}, "lora_", "setting bias"),
    "one of all biases": (
        {"bias": "all"},
        r"^(?!.*layers\.0\.self_attn\.k_proj).*",
        "layers.0.self_attn.k_proj.bias (1 in all), which its setting bias",
    ),
    "biases of adapted layers": ({"bias": "lora_only"}, "lora_", "setting bias"),
    "one bias of an adapted layer": (
        {"bias": "lora_only"},
        r"lora_|[12]\.self_attn|layers\.0\.self_attn\.v_proj",
        "layers.0.self_attn.q_proj.bias (1 in all), which its setting bias",
    ),
    "biases of factors": ({"lora_bias": True}, "weight", "missing weight lora_B.default.bias of"),
    "magnitudes": ({"use_dora": True}, "lora_[AB]", "missing weight lora_magnit"),
    "parameters": (PARAMETERS, "v_proj", "lacks the adapter weights of"),
    "a layer beside parameters": (
        PARAMETERS,
        r"k_proj|layers\.0\.self_attn\.v_proj",
        "lacks the adapter weights of language_model.layers.1.self_attn.v_proj",
    ),
    "all layers": (
        {"modules_to_save": ["merger"]},
        "merger",
        "lacks the adapter weights of",
    ),
    "the vision tower": (
        {"target_modules": ["q_proj", "proj"]},
        "language_model",
        "lacks the adapter weights of visual",
    ),
}
"""Options of `LoraConfig`, the weights that are left in the file, and a part of the message."""


@pytest.mark.parametrize("name", INCOMPLETE)
def test_an_adapter_that_lacks_what_its_settings_name_is_refused(
    name: str, backbones: dict[str, Path], tmp_path: Path
) -> None:
    """A file that was cut would else be merged into another model, without a word."""
    options, kept, message = INCOMPLETE[name]
    train_adapter(tmp_path / "adapter", backbones["qwen2_5_vl"], **options)
    load_backbone(tmp_path / "adapter", "auto")
    keep(kept)(tmp_path / "adapter")
    with pytest.raises(BundleError, match=re.escape(message)) as refusal:
        load_backbone(tmp_path / "adapter", "auto")
    assert "copy the adapter again" in str(refusal.value)


def test_the_check_of_saved_modules_rows_and_biases_is_what_refuses(
    backbones: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the check the rest of the adapter is merged."""
    for options in ({"modules_to_save": ["merger"]}, {"bias": "all"}):
        folder = tmp_path / next(iter(options))
        train_adapter(folder, backbones["qwen2_vl"], **options)
        keep("lora_")(folder)
        with monkeypatch.context() as patch:
            patch.setattr(adapter_merge, "check_parts", lambda *_: None)
            load_backbone(folder, "auto")
        with pytest.raises(BundleError, match="lacks the weight"):
            load_backbone(folder, "auto")


@pytest.mark.parametrize(
    ("part", "new"), [("model.model.language_model", "model.model"), ("base_model.model.", "")]
)
@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["norm"]}, {"bias": "all"}])
def test_a_weight_under_two_names_is_refused(
    options: dict[str, Any], part: str, new: str, backbones: dict[str, Path], tmp_path: Path
) -> None:
    """The later would be merged, and which one is later depends on the file."""
    train_adapter(tmp_path / "adapter", backbones["qwen2_vl"], **options)
    weights = load_file(tmp_path / "adapter" / WEIGHTS)
    chosen = [key for key in weights if bool(options) != ("lora_" in key) and part in key]
    second = {key.replace(part, new): weights[key] * 3 for key in chosen}
    assert second
    save_file({**weights, **second}, tmp_path / "adapter" / WEIGHTS)
    with pytest.raises(BundleError, match="under two names"):
        load_backbone(tmp_path / "adapter", "auto")


CODE = {
    "megatron_core": "megatron.extra",
    "auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"},
    "runtime_config": {"ephemeral_gpu_offload": True},
    "loftq_config": {"loftq_bits": 4},
    "eva_config": {"rho": 2},
    "corda_config": {"cache_file": "evil.pkl", "covariance_file": "evil.pkl"},
    "task_type": "EVIL",
    "revision": "../evil",
}
"""Settings of PEFT that name a module, a file, or calculations before training."""


def test_no_setting_of_an_adapter_imports_a_module(
    plain_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no effect on a merge, and are not looked at.

    The control reads the same settings with PEFT, which imports the module.
    """
    from peft import PeftModel

    # the only name that PEFT imports modules of; anyone can call a folder so
    package = tmp_path / "megatron"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "extra.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    expected = load_backbone(folder, "auto").state_dict()
    setting(**CODE)(folder)
    merged = load_backbone(folder, "auto").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in merged.items())
    assert not (tmp_path / "ran").exists()
    shutil.copy(plain_adapter / "adapter_config.json", folder)
    setting(megatron_config={"x": 1}, megatron_core=CODE["megatron_core"])(folder)
    base = load_backbone(
        Path(json.loads((folder / "adapter_config.json").read_text())[BASE]), "auto"
    )
    with pytest.raises(Exception):  # noqa: B017 - the module is imported, and then lacks a function
        PeftModel.from_pretrained(base, folder)
    assert (tmp_path / "ran").exists()


VALUES = (
    None, True, False, -1, 0, 3, 1e308, 10**30, "", "all-linear", "(", "a" * 30_000, [], [None],
    ["q_proj"], [[]], {}, {"q_proj": 4}, {"(": 1}, {"a": {}}, "../..", "\x1b[31m\n",
)  # fmt: skip
"""Values that a damaged or hostile setting may have."""


def test_mutated_settings_end_in_a_merge_or_one_line(plain_adapter: Path, tmp_path: Path) -> None:
    """A seeded sample of settings and values; nothing else than `BundleError` is raised."""
    chosen = random.Random(16)
    settings = json.loads((plain_adapter / "adapter_config.json").read_text())
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    merged = 0
    messages = []
    for _ in range(60):
        changes = {name: chosen.choice(VALUES) for name in chosen.sample(sorted(settings), 2)}
        changed = {**settings, **changes}
        (folder / "adapter_config.json").write_text(json.dumps(changed))
        try:
            load_backbone(folder, "auto")
            merged += 1
        except BundleError as error:
            messages.append(str(error))
    assert merged > 5
    assert len(messages) > 5
    assert all(message.isprintable() for message in messages)


def test_an_adapter_on_an_adapter_is_refused(plain_adapter: Path, tmp_path: Path) -> None:
    """So is a circle of two that name each other, which would otherwise be followed forever."""
    for name, base in (("a", "b"), ("b", "a")):
        shutil.copytree(plain_adapter, tmp_path / name)
        (tmp_path / name / "config.json").write_text("{}")
        setting(base_model_name_or_path=f"../{base}")(tmp_path / name)
    with pytest.raises(BundleError, match="is an adapter as well"):
        load_backbone(tmp_path / "a", "auto")


def test_an_adapter_of_another_model_is_refused(backbones: dict[str, Path], tmp_path: Path) -> None:
    """So is an adapter whose base model is not on the disk."""
    adapted = get_peft_model(
        load_backbone(backbones["qwen2_vl"], "auto"), LoraConfig(r=2, target_modules=["q_proj"])
    )
    adapted.save_pretrained(tmp_path / "adapter")
    edit_json(tmp_path / "adapter/adapter_config.json", base_model_name_or_path="Qwen/Nowhere")
    with pytest.raises(BundleError, match="no local folder"):
        load_backbone(tmp_path / "adapter", "auto")
    edit_json(
        tmp_path / "adapter/adapter_config.json", base_model_name_or_path=str(backbones["qwen3_vl"])
    )
    with pytest.raises(BundleError, match="check base_model_name_or_path"):
        load_backbone(tmp_path / "adapter", "auto")
