"""Checks that the settings of a model agree with each other, before a model is built from them.

transformers checks hardly any of it: a wrong relation fails in the middle of a forward pass, or
gives features that belong to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Any

from lame_runtime.errors import BundleError, shown


def check_model(config: Any, where: str) -> None:
    """Raises a `BundleError` that names a setting of a vision-language model that does not fit."""
    text, vision = config.text_config, config.vision_config
    for fault in (
        *_text_faults(text, "text_config."),
        *_mrope_faults(text),
        *_expert_faults(text),
        *_vision_faults(vision, text),
        *_level_faults(vision),
        *_token_faults(config, text),
    ):
        raise BundleError(f"{where}: {fault}; its config.json belongs to another model")
    # transformers tells the two layouts of published experts, (in, out) and (out, in), by shape
    width, experts = text.hidden_size, getattr(text, "moe_intermediate_size", None)
    if experts is not None and width in (experts, 2 * experts):
        raise BundleError(
            f"{where}: text_config.moe_intermediate_size {experts} and hidden_size {width} make "
            "the experts' weights square, so their layout is unclear; use a model of another shape"
        )


def check_text(config: Any, where: str) -> None:
    """Raises a `BundleError` that names a setting of a language model that does not fit."""
    for fault in _text_faults(config, ""):
        raise BundleError(f"{where}: {fault}; its config.json belongs to another model")


def _head_width(text: Any) -> int:
    own = getattr(text, "head_dim", None)
    return int(own or text.hidden_size // text.num_attention_heads)


def _text_faults(text: Any, prefix: str) -> Iterator[str]:
    heads, groups = text.num_attention_heads, text.num_key_value_heads
    if getattr(text, "head_dim", None) is None and text.hidden_size % heads:
        yield f"{prefix}hidden_size {text.hidden_size} is not a multiple of {heads} heads"
    if heads % groups:
        yield f"{prefix}num_attention_heads {heads} is not a multiple of {groups} key/value heads"
    if _head_width(text) % 2 or not _head_width(text):
        yield f"{prefix}head_dim {_head_width(text)} is not an even number"
    if not text.model_type.startswith("qwen3") and _head_width(text) * heads != text.hidden_size:
        # the two older families have no head_dim of their own
        yield f"{prefix}head_dim {_head_width(text)} is not hidden_size / num_attention_heads"
    # layer_types is filled in from the number of layers if the file has none
    types = getattr(text, "layer_types", None)
    if types is not None and list(types) != ["full_attention"] * text.num_hidden_layers:
        yield (
            f"{prefix}layer_types has {len(types)} entries, "
            f"and num_hidden_layers is {text.num_hidden_layers}"
        )
    pad = getattr(text, "pad_token_id", None)
    if pad is not None and not 0 <= pad < text.vocab_size:
        yield f"{prefix}pad_token_id {pad} is not below vocab_size {text.vocab_size}"


def _mrope_faults(text: Any) -> Iterator[str]:
    name = "text_config.rope_parameters.mrope_section"
    section = (getattr(text, "rope_parameters", None) or {}).get("mrope_section")
    pairs = _head_width(text) // 2
    if section is None:
        # transformers has a default, which fits a head of 128 alone
        if pairs != 64:
            yield f"{name} is missing"
        return
    if sum(section) != pairs:
        yield f"{name} {section} does not add up to half of a head, {pairs}"
    elif text.model_type.startswith("qwen3_vl") and 3 * max(section[1:]) > pairs + 2:
        yield f"{name} {section} does not fit {pairs} pairs in turn"


def _expert_faults(text: Any) -> Iterator[str]:
    experts = getattr(text, "num_experts", None)
    if experts is None:
        return
    if text.num_experts_per_tok > experts:
        yield (
            f"text_config.num_experts_per_tok {text.num_experts_per_tok} is more than "
            f"num_experts {experts}"
        )


def _vision_faults(vision: Any, text: Any) -> Iterator[str]:
    # in Qwen2-VL's vision config `embed_dim` is the tower's width, `hidden_size` the output's
    older = getattr(vision, "embed_dim", None) is not None
    width = vision.embed_dim if older else vision.hidden_size
    name = "embed_dim" if older else "hidden_size"
    output_name = "hidden_size" if older else "out_hidden_size"
    if width % vision.num_heads or width // vision.num_heads % 4:
        # half of a head's pairs turn with rows, half with columns
        yield f"vision_config.{name} {width} is not a multiple of 4 times {vision.num_heads} heads"
    if (output := getattr(vision, output_name)) != text.hidden_size:
        yield f"vision_config.{output_name} is {output}, text_config.hidden_size {text.hidden_size}"
    window = getattr(vision, "window_size", None)
    token = vision.patch_size * vision.spatial_merge_size
    if window is not None and window < token:
        yield f"vision_config.window_size {window} is smaller than a token of {token} pixels"
    positions = getattr(vision, "num_position_embeddings", None)
    if positions is not None and isqrt(positions) ** 2 != positions:
        yield f"vision_config.num_position_embeddings {positions} is not a square"


def _level_faults(vision: Any) -> Iterator[str]:
    for name in ("deepstack_visual_indexes", "fullatt_block_indexes"):
        blocks = list(getattr(vision, name, None) or ())
        if blocks and max(blocks) >= vision.depth:
            yield f"vision_config.{name} {shown(blocks)} names a block beyond depth {vision.depth}"


def _token_faults(config: Any, text: Any) -> Iterator[str]:
    for name in ("image_token_id", "video_token_id"):
        if getattr(config, name) >= text.vocab_size:
            yield f"{name} {getattr(config, name)} is not below vocab_size {text.vocab_size}"
    if config.image_token_id == config.video_token_id:
        yield f"image_token_id and video_token_id are both {config.image_token_id}"
