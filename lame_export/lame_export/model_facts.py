"""Collects facts about a model and the machine for manifest, certificate and TensorRT profiles."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from lame_runtime.bundle.manifest import ModelFacts, PartWidths
from lame_runtime.contract import Contract

if TYPE_CHECKING:
    from lame_training.model.lame import LaMEModel

PACKAGES = (
    "lame-export",
    "lame-runtime",
    "lame-training",
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "numpy",
    "pillow",
)
"""Packages whose versions a certificate records."""


def model_facts(model: LaMEModel, contract: Contract) -> ModelFacts:
    """Returns the facts about a model that the manifest records."""
    return ModelFacts(
        family=contract.family,
        dim=contract.dim,
        n_reason=contract.tokens.n_reason,
        widths=_part_widths(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        exported_by=f"lame-export {importlib.metadata.version('lame-export')}",
    )


def model_widths(model: LaMEModel) -> dict[str, dict[str, int]]:
    """Returns hidden width, MLP width and heads of "encoder" and "vision"."""
    return {part: asdict(widths) for part, widths in _part_widths(model).items()}


def environment() -> dict[str, str]:
    """Returns package versions, machine and date (UTC), which a certificate records."""
    return {
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _part_widths(model: LaMEModel) -> dict[str, PartWidths]:
    text, vision = model.backbone.config.text_config, model.backbone.config.vision_config
    # Qwen2-VL alone names the tower's width embed_dim and gives the width of its MLP as a ratio
    hidden = getattr(vision, "embed_dim", None) or vision.hidden_size
    mlp = getattr(vision, "intermediate_size", None) or int(hidden * vision.mlp_ratio)
    # experts stand side by side as one wide MLP, see `forward.experts`
    experts = getattr(text, "num_experts", 0) * getattr(text, "moe_intermediate_size", 0)
    widest = max(text.intermediate_size, experts)
    return {
        "encoder": PartWidths(text.hidden_size, widest, text.num_attention_heads),
        "vision": PartWidths(hidden, mlp, vision.num_heads),
    }
