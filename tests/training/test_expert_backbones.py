"""Backbones with experts: what of them can be trained, and folders that cannot be used."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lame_runtime.errors import BundleError
from lame_training import train
from lame_training.model.backbones import load_backbone
from lame_training.model.checkpoint import load_model
from lame_training.model.lame import LaMEModel
from lame_training.recipes.catalog import find_recipe
from lame_training.run.dry_run.memory_estimate import activations
from peft import LoraConfig, get_peft_model

FAMILY = "qwen3_vl_moe"


def test_routers_and_experts_are_trained_and_resumed(
    backbones: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """Some steps change every router and expert, and an interrupted run ends at the same weights.

    Control: the steps of a run are not the backbone it started from.
    """
    recipe, backbone = find_recipe("digits-tiny"), backbones[FAMILY]
    train(recipe, data, tmp_path / "whole", backbone=backbone, steps=4, progress=False)
    train(recipe, data, tmp_path / "halves", backbone=backbone, steps=2, progress=False)
    train(recipe, data, tmp_path / "halves", steps=4, resume=True, progress=False)
    before = load_backbone(backbone, torch.float32).state_dict()
    whole, halves = (
        load_model(tmp_path / name)[0].backbone.state_dict() for name in ("whole", "halves")
    )
    assert all(torch.equal(whole[name], value) for name, value in halves.items())
    of_experts = [name for name in whole if ".experts." in name or name.endswith("mlp.gate.weight")]
    assert len(of_experts) == 6  # two of the three blocks
    assert not any(torch.equal(whole[name], before[name]) for name in of_experts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts_per_tok": 17}, r"experts_per_tok 17 is more than num_experts 16"),
        ({"moe_intermediate_size": 32}, r"make the experts' weights square, so their layout"),
        ({"norm_topk_prob": False}, r"norm_topk_prob is False; expected True"),
        ({"num_experts_per_tok": 0}, r"num_experts_per_tok is 0"),
    ],
)
def test_settings_of_experts_that_cannot_be_used_are_named(
    change: dict[str, Any], message: str, backbones: dict[str, Path], tmp_path: Path
) -> None:
    """One line names the setting; the folder as it was is read."""
    folder = Path(shutil.copytree(backbones[FAMILY], tmp_path / "backbone"))
    load_backbone(folder, "auto")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=message):
        load_backbone(folder, "auto")


# what PEFT says about patterns that match nothing, and about a tied table
@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::RuntimeWarning", "ignore::FutureWarning:transformers"
)
def test_an_adapter_of_experts_is_refused_and_one_of_attention_merged(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    """Experts are tensors of three dimensions, which our merge does not know."""
    for name, options in {
        "experts": {"target_parameters": ["mlp.experts.down_proj"], "target_modules": []},
        "attention": {"target_modules": ["q_proj"]},
    }.items():
        base = load_backbone(backbones[FAMILY], "auto")
        adapted = get_peft_model(base, LoraConfig(r=2, init_lora_weights=False, **options))
        adapted.peft_config["default"].base_model_name_or_path = str(backbones[FAMILY])
        adapted.save_pretrained(tmp_path / name)
    with pytest.raises(BundleError, match=r"adapts experts .*, which is not supported"):
        load_backbone(tmp_path / "experts", "auto")
    merged, plain = (
        load_backbone(folder, "auto").get_parameter(
            "language_model.layers.0.self_attn.q_proj.weight"
        )
        for folder in (tmp_path / "attention", backbones[FAMILY])
    )
    assert not torch.equal(merged, plain)


def test_activations_are_estimated_for_the_experts_that_are_taken(
    backbones: dict[str, Path],
) -> None:
    """The estimate is near what autograd keeps; with all experts it would be far above it."""
    model = LaMEModel(load_backbone(backbones[FAMILY], torch.float32), None, 8, 64).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # or its memory would be given to another one
        return tensor

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        rows = torch.randn(4, 96, 64, requires_grad=True)
        model.backbone.language_model(inputs_embeds=rows, use_cache=False)
    recipe = dataclasses.replace(find_recipe("digits-tiny"), gradient_checkpointing=False)
    share = activations(recipe, model, 4, 96) / sum(kept.values())
    assert 0.67 < share < 1.5
    model.backbone.config.text_config.num_experts_per_tok = 16
    assert activations(recipe, model, 4, 96) / sum(kept.values()) > 1.5
