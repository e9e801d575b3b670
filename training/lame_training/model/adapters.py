"""LoRA and DoRA adapters, through PEFT.

Adapters are trained inside the language model, and saved as PEFT saves them. When a model is loaded
for inference, `from_disk.merging.adapter_merge` merges them into the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoRA:
    """Settings of low-rank adapters (LoRA, arXiv 2106.09685) of linear layers.

    The defaults of rank, alpha, dropout and DoRA are those of VLM2Vec-V2 (arXiv 2507.04590).
    """

    rank: int = 16
    alpha: int = 64
    """The adapter's output is multiplied by `alpha / rank`."""
    dropout: float = 0.1
    dora: bool = True
    """Decompose weights into magnitude and direction (DoRA, arXiv 2402.09353): the length of each
    output's weight vector is a parameter of its own."""
    layers: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Linear layers of each block that get an adapter."""


def add_lora(backbone: PreTrainedModel, lora: LoRA) -> None:
    """Adds newly initialized adapters to the backbone's language model, in place.

    PEFT initializes one of the two low-rank factors with zeros, so the model's output is unchanged
    until the adapters are trained.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        # a regular expression instead of a list of names, because the vision tower of Qwen2.5-VL
        # has layers of the same names (gate_proj, up_proj, down_proj), which must stay as they are
        target_modules=rf"language_model\.layers\.\d+\..*\.({'|'.join(lora.layers)})",
    )
    backbone.add_adapter(config)


def is_adapter(name: str) -> bool:
    """Returns whether the parameter of this name belongs to an adapter."""
    # PEFT's names are lora_A, lora_B and, of DoRA's magnitudes, lora_magnitude_vector
    return ".lora_" in name


def name_without_adapter(name: str) -> str:
    """Returns the name that a base parameter has in a model without adapters.

    PEFT moves an adapted layer's own weights into a submodule called `base_layer`.
    """
    return name.replace(".base_layer.", ".")


def save_adapter(backbone: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes an adapter in PEFT's format into an existing folder.

    Args:
        backbone: the model that holds the adapter; its PEFT config is written.
        weights: the adapter's parameters by their name in the backbone, unsharded.
        folder: receives `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        OSError: the config cannot be written.
        SafetensorError: the weights cannot be written.
    """
    from safetensors.torch import save_file

    # the parameters inside the model may be sharded (FSDP2), so PEFT cannot save them from there
    # and the names it gives them are made here; they leave out the adapter's own name, "default"
    named = {
        f"base_model.model.{name.replace('.default', '')}": value.detach().contiguous()
        for name, value in weights.items()
    }
    # PEFT's name of a DoRA magnitude ends with the layer, the parameter's with the weight inside it
    named = {
        name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): value
        for name, value in named.items()
    }
    save_file(named, folder / "adapter_model.safetensors")
    config = backbone.peft_config["default"]
    config.save_pretrained(folder)
