"""LoRA and DoRA through PEFT: trained inside the language model, merged into the weights when a model is loaded for use."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lame_runtime.errors import InputError

from lame_training.backbones import first_line

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoRA:
    """Adapters beside the linear layers of the language model. Rank, form, scale and dropout are VLM2Vec-V2's."""

    rank: int = 16
    alpha: int = 64
    dropout: float = 0.1
    dora: bool = True
    """Weight-decomposed (arXiv 2402.09353): the length of each output's weights is trained apart from their direction."""
    layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(backbone: PreTrainedModel, lora: LoRA) -> None:
    """Puts fresh adapters into the backbone's language model; they change nothing yet."""
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=rf"language_model\.layers\.\d+\..*\.({'|'.join(lora.layers)})",
    )
    backbone.add_adapter(config)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


def without_adapter(name: str) -> str:
    """The name that a parameter beside an adapter has in a model without one."""
    return name.replace(".base_layer.", ".")


def save_adapter(backbone: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes the adapter as PEFT writes it, into a folder that exists.

    Args:
        backbone: holds the adapter.
        weights: the backbone's adapter parameters by name, whole.
        folder: for `adapter_config.json` and `adapter_model.safetensors`.
    """
    from safetensors.torch import save_file

    named = {f"base_model.model.{name.replace('.default', '')}": value.detach().contiguous() for name, value in weights.items()}
    # PEFT's name of a DoRA magnitude ends at the layer, ours at the weight inside it
    named = {name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): value for name, value in named.items()}
    save_file(named, folder / "adapter_model.safetensors")
    config = backbone.peft_config["default"]
    config.save_pretrained(folder)


def merge_adapter(model: PreTrainedModel, folder: Path, *, widen: bool = False) -> PreTrainedModel:
    """The model with a PEFT adapter's change added to its weights.

    Args:
        model: the base.
        folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT's `save_pretrained` writes them.
        widen: add in FP32 and leave the sums in it: in BF16 a change of less than 1/256 of a weight is lost.

    Raises:
        InputError: the adapter is pickled, unreadable or another model's.
    """
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        found = "a pickled adapter, which is never loaded" if list(folder.glob("*.bin")) else "no adapter_model.safetensors"
        raise InputError(f"{folder}: holds {found}; save the adapter as safetensors (PEFT does)")
    before = {name for name, _ in model.named_parameters()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about names PEFT still uses
            adapted = PeftModel.from_pretrained(model, folder, local_files_only=True)
            report = adapted.load_adapter(folder, "default", local_files_only=True)
            for module in adapted.modules() if widen else ():
                if isinstance(layer := getattr(module, "base_layer", None), torch.nn.Module):
                    layer.float()
            merged = adapted.merge_and_unload(safe_merge=True)
        if report.unexpected_keys:
            raise ValueError(f"unknown weight {report.unexpected_keys[0]}")
        if lost := [key for key in report.missing_keys if "lora_" in key]:
            raise ValueError(f"missing weight {lost[0]}")
    except Exception as error:  # PEFT passes on what torch, safetensors and its own checks raise
        raise InputError(f"{folder}: the adapter cannot be merged ({first_line(error)}); is it this model's?") from None
    if {name for name, _ in merged.named_parameters()} != before:
        raise InputError(f"{folder}: the adapter changes more than weights; merge it with PEFT first")
    return merged
