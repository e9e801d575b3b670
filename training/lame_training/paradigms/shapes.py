"""Backbones in random weights to time: a reduced one for CPUs and continuous integration, and the published shapes.

Time does not depend on the weights' values. The reduced shape keeps what decides the ratios: the feed-forward is six times
the width, queries outnumber keys, and the LM head is 15 % of what a decode step reads, as it is in Qwen2-VL-2B.
"""

from __future__ import annotations

from typing import Any

import torch
from lame_runtime.errors import InputError
from transformers import PreTrainedConfig, PreTrainedModel

from lame_training.backbones import FAMILIES
from lame_training.shapes import ROPE, SHAPES

TEXT = {"hidden_size": 256, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 1,
        "vocab_size": 5_632, "rms_norm_eps": 1e-6}  # fmt: skip
VISION = {"depth": 2, "num_heads": 4, "patch_size": 14}
REDUCED: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": {**ROPE, "mrope_section": [8, 12, 12]}},
        "vision_config": {**VISION, "embed_dim": 128, "hidden_size": 256},
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": {**ROPE, "mrope_section": [8, 12, 12]}},
        "vision_config": {**VISION, "hidden_size": 128, "intermediate_size": 256, "out_hidden_size": 256, "fullatt_block_indexes": [1]},
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "num_key_value_heads": 2, "head_dim": 64,
                        "rope_parameters": {**ROPE, "mrope_section": [12, 10, 10], "mrope_interleaved": True}},
        "vision_config": {**VISION, "patch_size": 16, "hidden_size": 128, "intermediate_size": 256, "out_hidden_size": 256,
                          "num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]},
    },
}  # fmt: skip


def shape_config(shape: str, family: str) -> PreTrainedConfig:
    """The config of a shape.

    Raises:
        InputError: there is no such shape of the family.
    """
    found = REDUCED if shape == "reduced" else {name: each for (name, size), each in SHAPES.items() if size == shape}
    if family not in found:
        raise InputError(f"--family {family}: has no shape {shape}; there are {', '.join(found)}")
    chosen = found[family]
    text = {**chosen["text_config"], "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return FAMILIES[family].config(text_config=text, vision_config=chosen["vision_config"], tie_word_embeddings=True)


def random_backbone(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
    """A backbone in random weights, made where and as it will run."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return FAMILIES[str(config.model_type)].model(config).eval()
    finally:
        torch.set_default_dtype(before)


def head_share(config: PreTrainedConfig) -> float:
    """The LM head's share of the weights that a decode step reads."""
    text = config.text_config
    width, head_width = text.hidden_size, getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    attention = width * head_width * 2 * (text.num_attention_heads + text.num_key_value_heads)
    blocks = text.num_hidden_layers * (attention + 3 * width * text.intermediate_size)
    return float(width * text.vocab_size / (blocks + width * text.vocab_size))
