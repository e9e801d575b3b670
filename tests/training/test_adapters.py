"""PEFT adapters are merged into the backbone they were made for, without losing small changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lame_runtime.errors import BundleError
from lame_training.model.adapters import merge_adapter
from lame_training.model.backbones import FAMILIES, load_backbone
from lame_training.model.checkpoint import load_model
from lame_training.recipes.catalog import find_recipe
from lame_training.run.initialization import initialize
from peft import LoraConfig, get_peft_model
from samples import edit_json

# PEFT still uses names that transformers has renamed
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


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
    with pytest.raises(BundleError, match="is it this model's"):
        load_backbone(tmp_path / "adapter", "auto")
