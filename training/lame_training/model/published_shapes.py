"""The shapes of published backbones, without weights.

They are the values in the `config.json` files on the model hub. Random weights of real size
(`fixtures.random_backbone`) and the memory estimate of a recipe (`run.dry_run`) need them.
"""

from __future__ import annotations

from typing import Any

# `rope_parameters` is transformers 5's name for the rope_theta and rope_scaling of the hub's files.
ROPE = {"rope_type": "default", "rope_theta": 1e6}
_QWEN2 = {
    "vocab_size": 151_936,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {**ROPE, "mrope_section": [16, 24, 24]},
}
_QWEN3 = {
    "vocab_size": 151_936,
    "rms_norm_eps": 1e-6,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_parameters": {
        **ROPE,
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}
_TOWER2 = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
_TOWER3 = {"patch_size": 16, "num_heads": 16, "num_position_embeddings": 2304}

SHAPES: dict[tuple[str, str], dict[str, Any]] = {
    # In Qwen2-VL's vision config `embed_dim` is the tower's width and `hidden_size` the language
    # model's; in the other two families `hidden_size` and `out_hidden_size` are.
    ("qwen2_vl", "2b"): {
        "text_config": {
            **_QWEN2, "hidden_size": 1536, "intermediate_size": 8960,
            "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
        },
        "vision_config": {**_TOWER2, "hidden_size": 1536},
    },
    ("qwen2_vl", "7b"): {
        # the table has more rows than that of the smaller model; both use the same tokenizer
        "text_config": {
            **_QWEN2, "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        },
        "vision_config": {**_TOWER2, "hidden_size": 3584},
    },
    ("qwen2_5_vl", "3b"): {
        "text_config": {
            **_QWEN2, "hidden_size": 2048, "intermediate_size": 11_008,
            "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
        },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 2048, "patch_size": 14, "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
    },
    ("qwen3_vl", "2b"): {
        "text_config": {
            **_QWEN3, "hidden_size": 2048, "intermediate_size": 6144,
            "num_hidden_layers": 28, "num_attention_heads": 16,
        },
        "vision_config": {
            **_TOWER3, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096,
            "out_hidden_size": 2048, "deepstack_visual_indexes": [5, 11, 17],
        },
    },
    ("qwen3_vl", "8b"): {
        "text_config": {
            **_QWEN3, "hidden_size": 4096, "intermediate_size": 12_288,
            "num_hidden_layers": 36, "num_attention_heads": 32,
        },
        "vision_config": {
            **_TOWER3, "depth": 27, "hidden_size": 1152, "intermediate_size": 4304,
            "out_hidden_size": 4096, "deepstack_visual_indexes": [8, 16, 24],
        },
    },
}  # fmt: skip
"""Keyword arguments of the family's config, by family and size."""
