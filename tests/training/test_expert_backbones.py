"""Backbones with experts: what of them can be trained, and folders that cannot be used."""

from __future__ import annotations

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
from lame_training.recipes.catalog import find_recipe

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
        ({"moe_intermediate_size": 32}, r"make weights of experts square, whose layout is not kn"),
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
