"""Reads the settings of a model from its `config.json`: a list of names, each with its range.

transformers takes whatever a config holds as an attribute: an implementation of attention that is
downloaded and run, a quantizer to import, a list of layers that fills the memory. So a config is
built from the settings below alone, checked before anything is made of them; labels, generation
settings and the like are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lame_runtime.errors import BundleError, shown

Check = Callable[[Any], bool]
"""Tells whether a value is within its range."""


def _whole(least: int, most: int) -> tuple[str, Check]:
    return (
        f"a whole number from {least:,} to {most:,}",
        lambda value: type(value) is int and least <= value <= most,
    )


def _number(least: float, most: float) -> tuple[str, Check]:
    # the comparison is False for NaN
    return (
        f"a number from {least:g} to {most:g}",
        lambda value: type(value) in (int, float) and least <= value <= most,
    )


def _numbers(most: int, least: int = 0) -> tuple[str, Check]:
    return (
        f"a list of different whole numbers from {least} to {most:,}",
        lambda value: (
            isinstance(value, list)
            and len(value) <= most + 1
            and all(type(entry) is int and least <= entry <= most for entry in value)
            and len(set(value)) == len(value)
        ),
    )


def _one_of(*values: object) -> tuple[str, Check]:
    return (
        " or ".join(map(repr, values)),
        lambda value: any(type(value) is type(one) and value == one for one in values),
    )


WIDTH, BLOCKS, TOKEN = _whole(1, 1 << 17), _whole(1, 1024), _whole(0, (1 << 22) - 1)
SWITCH = _one_of(True, False)
TYPE = _one_of("float32", "float16", "bfloat16", "float64", "auto")
ACTIVATION = _one_of(
    "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu", "swish"
)
COMMON: dict[str, tuple[str, Check]] = {
    "dtype": TYPE,
    "torch_dtype": TYPE,
    "hidden_act": ACTIVATION,
    "hidden_size": WIDTH,
    "intermediate_size": _whole(1, 1 << 20),
    "initializer_range": _number(0, 100),
}
ROPE: dict[str, tuple[str, Check]] = {
    "type": _one_of("default", "mrope", "linear", "dynamic", "yarn", "llama3", "longrope"),
    "rope_type": _one_of("default", "mrope", "linear", "dynamic", "yarn", "llama3", "longrope"),
    "rope_theta": _number(1, 1e12),
    "mrope_section": (
        "three whole numbers from 0 to 4096",
        lambda value: (
            isinstance(value, list)
            and len(value) == 3
            and all(type(entry) is int and 0 <= entry <= 4096 for entry in value)
        ),
    ),
    "mrope_interleaved": SWITCH,
    "factor": _number(1, 1e6),
    "attention_factor": _number(0, 1e6),
    "beta_fast": _number(0, 1e6),
    "beta_slow": _number(0, 1e6),
    "low_freq_factor": _number(0, 1e6),
    "high_freq_factor": _number(0, 1e6),
    "original_max_position_embeddings": _whole(1, 1 << 31),
    "truncate": SWITCH,
}
TEXT: dict[str, tuple[str, Check]] = {
    **COMMON,
    "vocab_size": _whole(1, 1 << 22),
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": BLOCKS,
    "num_key_value_heads": BLOCKS,
    "head_dim": _whole(1, 4096),
    "max_position_embeddings": _whole(1, 1 << 31),
    "rms_norm_eps": _number(1e-15, 1),
    "attention_bias": SWITCH,
    "attention_dropout": _number(0, 1),
    # the families attend to everything; windows of the language model are not exported
    "use_sliding_window": _one_of(False),
    # nor is attention in both directions, which transformers has since 5.2
    "is_causal": _one_of(True),
    "use_bidirectional_attention": _one_of(False),
    "layer_types": (
        "a list of 'full_attention'",
        lambda value: isinstance(value, list) and set(map(str, value)) <= {"full_attention"},
    ),
    "rope_theta": ROPE["rope_theta"],
    "tie_word_embeddings": SWITCH,
    "bos_token_id": TOKEN,
    "pad_token_id": TOKEN,
    # a mixture of experts; hub files say num_experts, transformers writes num_local_experts
    "num_experts": BLOCKS,
    "num_local_experts": BLOCKS,
    "num_experts_per_tok": BLOCKS,
    "moe_intermediate_size": _whole(1, 1 << 20),
    "decoder_sparse_step": BLOCKS,
    "mlp_only_layers": _numbers(1023),
    # transformers divides by the sum of the experts' shares in any case
    "norm_topk_prob": _one_of(True),
}
VISION: dict[str, tuple[str, Check]] = {
    **COMMON,
    "depth": BLOCKS,
    "embed_dim": WIDTH,
    "out_hidden_size": WIDTH,
    "mlp_ratio": _number(0.01, 100),
    "num_heads": BLOCKS,
    "in_channels": _one_of(3),
    "in_chans": _one_of(3),
    "patch_size": _whole(1, 1024),
    "spatial_merge_size": _whole(1, 64),
    "temporal_patch_size": _whole(1, 64),
    "window_size": _whole(1, 1 << 16),
    "tokens_per_second": _number(0, 1e4),
    "fullatt_block_indexes": _numbers(1023),
    "deepstack_visual_indexes": _numbers(1023),
    "num_position_embeddings": _whole(1, 1 << 24),
}
MODEL: dict[str, tuple[str, Check]] = {
    "dtype": TYPE,
    "torch_dtype": TYPE,
    "tie_word_embeddings": SWITCH,
    **{
        f"{name}_token_id": TOKEN
        for name in ("image", "video", "vision_start", "vision_end", "bos", "pad")
    },
}
NESTED = {"rope_parameters": ROPE, "rope_scaling": ROPE}
SIZES: dict[str, tuple[str, Check]] = {
    "n_reason": _whole(0, 4096),
    "dim": _whole(1, 1 << 20),
    "embed_attends": _one_of("everything", "reason"),
    "rec_from": _one_of("reason", "embed", "both"),
    "pooling": _one_of("embed", "concat", "mean"),
    "head": _one_of("projection", "dense", "dense_tanh"),
}
"""Settings that a checkpoint's `config.json` holds in addition to the configs of its parts."""
STEPS = _whole(0, 1 << 40)
"""The number of steps of a checkpoint."""
REFUSED = {
    "quantization_config": "use the unquantized model",
    "compression_config": "use the unquantized model",
}
"""Settings that change what the weights mean, with the remedy."""


def model_fields(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the settings of a vision-language model, its two parts as objects inside.

    Args:
        raw: the object of `config.json`. Published ones of Qwen2-VL hold the settings of the
            language model at the same level as the others.
        where: begins the messages of errors.

    Raises:
        BundleError: a setting has another type, or is out of its range; the message names it.
    """
    fields = _fields({**TEXT, **MODEL}, raw, where)
    for name, known in (("text_config", TEXT), ("vision_config", VISION)):
        part = raw.get(name)
        if part is None:
            continue
        if not isinstance(part, dict):
            raise BundleError(f"{where}: {name} is {shown(repr(part))}, not an object")
        fields[name] = _fields(known, part, where, f"{name}.")
    return fields


def text_fields(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the settings of a language model; raises `BundleError` as `model_fields`."""
    return _fields(TEXT, raw, where)


def checked(name: str, value: Any, check: tuple[str, Check], where: str) -> Any:
    """Returns a value that is within its range; raises a `BundleError` that names the setting."""
    expected, holds = check
    if not holds(value):
        raise BundleError(f"{where}: {name} is {shown(repr(value))}; expected {expected}")
    return value


def _fields(
    known: dict[str, tuple[str, Check]], raw: dict[str, Any], where: str, prefix: str = ""
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in raw.items():
        if value is None:
            # transformers writes null for what has no value; the default is meant
            continue
        if name in REFUSED:
            raise BundleError(f"{where}: {prefix}{name} is set; {REFUSED[name]}")
        if name in known:
            fields[name] = checked(f"{prefix}{name}", value, known[name], where)
        elif name in NESTED and "num_hidden_layers" in known:
            if not isinstance(value, dict):
                raise BundleError(f"{where}: {prefix}{name} is {shown(repr(value))}, not an object")
            fields[name] = _fields(NESTED[name], value, where, f"{prefix}{name}.")
    return fields
