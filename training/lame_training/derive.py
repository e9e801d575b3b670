"""A backbone folder → the contract: what `tokenizer.json`, the processor's files, the chat template and `config.json` say.

Where a folder lacks one of them, the family's published defaults apply; either way the contract holds the values,
and the runtime needs nothing else. The budgets (tokens, pixels, frames) are the recipe's and only ever lower the
folder's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.contract import Contract, ImageRules, Limits, PromptLayout, TokenRules, TowerRules, VideoRules
from lame_runtime.contract.prompts import special_tokens
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import BundleError, InputError
from transformers import PreTrainedConfig

from lame_training.backbones import config_folder, family_of, first_line, read_config, read_json
from lame_training.chat import layout_from_template, read_template
from lame_training.vocabulary import CHAT_END, END

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""The normalisation Qwen2-VL and Qwen2.5-VL took over from CLIP."""
HALF = (0.5, 0.5, 0.5)
BICUBIC = 3
"""Pillow's number of the filter, as processor files write it."""


@dataclass(frozen=True)
class Budget:
    """What one input may cost, by the recipe (ours; the published limits would not fit in most memories)."""

    max_length: int
    max_pixels: int
    """Of one picture."""
    max_frames: int
    visuals: int = 32


def published_images(family: str) -> ImageRules:
    """The picture rules of the family's published preprocessor files."""
    if family == "qwen3_vl":
        return ImageRules(16, 2, 2, min_pixels=65_536, max_pixels=16_777_216, mean=HALF, std=HALF)
    return ImageRules(14, 2, 2, min_pixels=3_136, max_pixels=12_845_056, mean=CLIP_MEAN, std=CLIP_STD)


def published_videos(family: str) -> VideoRules:
    """The video rules of Qwen3-VL's published preprocessor file; for the older two, those of the authors' qwen-vl-utils."""
    common: dict[str, Any] = {"fps": 2.0, "min_frames": 4, "max_frames": 768, "cap_pixels_per_frame": True, "tokens_per_second": 0.0}
    if family == "qwen3_vl":
        return VideoRules(
            sampling="linspace", pixels_of="clip", min_pixels=4_096, max_pixels=25_165_824, max_video_tokens=768, timestamps=True,
            mean=HALF, std=HALF, **common,
        )  # fmt: skip
    return VideoRules(
        sampling="stride", pixels_of="frame", min_pixels=128 * 28 * 28, max_pixels=768 * 28 * 28, max_video_tokens=128_000,
        timestamps=False, mean=CLIP_MEAN, std=CLIP_STD, **common,
    )  # fmt: skip


def derive_contract(folder: Path, budget: Budget, n_reason: int, dim: int, roles: dict[str, str]) -> Contract:
    """The contract of a LaME model on the backbone in `folder`.

    Args:
        folder: what `save_pretrained` wrote, or a PEFT adapter of one.
        budget: limits.
        n_reason: K.
        dim: P.
        roles: default instructions.

    Raises:
        InputError: a file that cannot be read, or files that contradict each other.
    """
    folder = config_folder(folder)
    config = read_config(folder)
    try:
        tokenizer = TextTokenizer(folder / "tokenizer.json")
    except BundleError as error:
        raise InputError(str(error).replace("export the bundle again", "copy the backbone's tokenizer.json")) from None
    try:
        images = image_rules(folder, config, budget)
        videos = video_rules(folder, config, images, budget)
        check_numbers(images, videos)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise InputError(f"{folder}: its processor files hold what cannot be used ({first_line(error)}); copy them again") from None
    template = read_template(folder, family_of(config))
    prompt = layout_from_template(template, dict(roles), folder)
    check_tokens(folder, config, tokenizer, prompt)
    tokens = TokenRules(
        image_pad=config.image_token_id,
        video_pad=config.video_token_id,
        pad=tokenizer.special(END),
        first_latent=config.text_config.vocab_size,
        n_reason=n_reason,
        max_length=budget.max_length,
    )
    return Contract(family_of(config), dim, prompt, tokens, images, videos, tower_rules(config), limits(budget, images))


def limits(budget: Budget, images: ImageRules) -> Limits:
    """As many patches as fit into the longest prompt."""
    return Limits(budget.visuals, budget.max_length * images.merge_size**2)


def tower_rules(config: PreTrainedConfig) -> TowerRules:
    """What the vision tower needs from the host, by its config."""
    vision = config.vision_config
    merge = vision.spatial_merge_size
    window = getattr(vision, "window_size", 0) // merge // vision.patch_size * merge
    return TowerRules(window, int(getattr(vision, "num_position_embeddings", 0) ** 0.5))


def image_rules(folder: Path, config: PreTrainedConfig, budget: Budget) -> ImageRules:
    """From `preprocessor_config.json` or the `image_processor` of `processor_config.json`."""
    raw = read_json(folder / "processor_config.json").get("image_processor") or read_json(folder / "preprocessor_config.json")
    known = published_images(family_of(config))
    rules = dataclasses.replace(known, **_pixels(raw, known), **_channels(raw, known), **_geometry(raw, known))
    _check_processing(raw, folder, "pictures")
    vision = config.vision_config
    for ours, theirs in (
        ("patch_size", "patch_size"),
        ("temporal_patch_size", "temporal_patch_size"),
        ("merge_size", "spatial_merge_size"),
    ):
        if getattr(rules, ours) != (expected := getattr(vision, theirs)):
            raise InputError(
                f"{folder}: its processor cuts {ours} {getattr(rules, ours)}, config.json says {expected}; they belong to two models"
            )
    largest = min(rules.max_pixels, budget.max_pixels)
    return dataclasses.replace(rules, max_pixels=largest, min_pixels=min(rules.min_pixels, largest))


def video_rules(folder: Path, config: PreTrainedConfig, images: ImageRules, budget: Budget) -> VideoRules:
    """From `video_preprocessor_config.json` or the `video_processor` of `processor_config.json`."""
    raw = read_json(folder / "processor_config.json").get("video_processor") or read_json(folder / "video_preprocessor_config.json")
    known = published_videos(family_of(config))
    _check_processing(raw, folder, "videos")
    numbers: dict[str, Any] = {key: int(raw[key]) for key in ("min_frames", "max_frames", "max_video_tokens") if raw.get(key) is not None}
    numbers |= {"fps": float(raw["fps"])} if raw.get("fps") is not None else {}
    for key in ("patch_size", "temporal_patch_size", "merge_size"):
        if raw.get(key, getattr(images, key)) != getattr(images, key):
            raise ValueError(f"videos are cut by {key} {raw[key]!r}, pictures by {getattr(images, key)}")
    if raw.get("cap_pixels_per_frame") is not None:
        numbers["cap_pixels_per_frame"] = bool(raw["cap_pixels_per_frame"])
    rules = dataclasses.replace(known, **numbers, **_pixels(raw, known), **_channels(raw, known))
    rules = dataclasses.replace(rules, fps=float(rules.fps), tokens_per_second=float(getattr(config.vision_config, "tokens_per_second", 0)))
    return within_budget(rules, images, budget)


def within_budget(rules: VideoRules, images: ImageRules, budget: Budget) -> VideoRules:
    """The rules with fewer frames and pixels, so that every video fits into four fifths of the longest prompt.

    The rest is for the text and, in Qwen3-VL, for the timestamps. A clip budget is exceeded by a third where a clip of
    three frames is filled up to four, so it is set lower.
    """
    frames = min(rules.max_frames, budget.max_frames)
    share = 0.6 if rules.pixels_of == "clip" else 0.8
    pixels = int(share * budget.max_length) * (images.patch_size * images.merge_size) ** 2 * images.temporal_patch_size
    rules = dataclasses.replace(rules, max_frames=frames, min_frames=min(rules.min_frames, frames))
    if rules.pixels_of == "clip":
        largest = min(rules.max_pixels, pixels)
        return dataclasses.replace(rules, max_pixels=largest, min_pixels=min(rules.min_pixels, largest // frames))
    largest = min(rules.max_pixels, budget.max_pixels)
    return dataclasses.replace(
        rules,
        max_pixels=largest,
        min_pixels=min(rules.min_pixels, largest, int(pixels / frames / 1.05)),
        cap_pixels_per_frame=True,
        max_video_tokens=min(rules.max_video_tokens, int(0.8 / 0.9 * budget.max_length)),
    )


def check_numbers(images: ImageRules, videos: VideoRules) -> None:
    """Raises `ValueError` for rules that no picture or video could be prepared by."""
    least = (images.patch_size * images.merge_size) ** 2
    if min(images.max_pixels, videos.max_pixels) < least or min(images.min_pixels, videos.min_pixels) < 1:
        raise ValueError(f"a pixel budget below {least}")
    if min(*images.std, *videos.std) <= 0:
        raise ValueError("a std that is not positive")
    if videos.max_frames < images.temporal_patch_size or videos.min_frames < 1 or not 0 < videos.fps < 1e4:
        raise ValueError(f"videos of {videos.min_frames} to {videos.max_frames} frames, {videos.fps} a second")


def check_tokens(folder: Path, config: PreTrainedConfig, tokenizer: TextTokenizer, prompt: PromptLayout) -> None:
    """Raises `InputError` where tokenizer and config belong to different models."""
    try:
        for token in sorted({*special_tokens(prompt), END, CHAT_END}):
            tokenizer.special(token)
        for token, expected in (("<|image_pad|>", config.image_token_id), ("<|video_pad|>", config.video_token_id)):
            if (found := tokenizer.special(token)) != expected:
                raise InputError(f"{folder}: tokenizer.json has {token} at {found}, config.json at {expected}; they belong to two models")
    except BundleError as error:
        raise InputError(f"{folder}: {str(error).replace('export the bundle again', 'copy the tokenizer of this backbone')}") from None
    if tokenizer.size > config.text_config.vocab_size:
        raise InputError(f"{folder}: tokenizer.json has {tokenizer.size} tokens, the embedding table {config.text_config.vocab_size} rows")


def _pixels(raw: dict[str, Any], known: ImageRules | VideoRules) -> dict[str, Any]:
    size = raw.get("size") or {}
    if size and not {"shortest_edge", "longest_edge", "min_pixels", "max_pixels"} & set(size):
        raise ValueError(f"size {size!r} is no pixel budget")
    least, most = (
        next((value for value in found if value is not None), default)
        for found, default in (
            ((raw.get("min_pixels"), size.get("shortest_edge"), size.get("min_pixels")), known.min_pixels),
            ((raw.get("max_pixels"), size.get("longest_edge"), size.get("max_pixels")), known.max_pixels),
        )
    )
    return {"min_pixels": int(least), "max_pixels": int(most)}


def _channels(raw: dict[str, Any], known: ImageRules | VideoRules) -> dict[str, Any]:
    mean, std = raw.get("image_mean") or known.mean, raw.get("image_std") or known.std
    return {"mean": (float(mean[0]), float(mean[1]), float(mean[2])), "std": (float(std[0]), float(std[1]), float(std[2]))}


def _geometry(raw: dict[str, Any], known: ImageRules) -> dict[str, Any]:
    return {key: int(raw.get(key) or getattr(known, key)) for key in ("patch_size", "temporal_patch_size", "merge_size")}


def _check_processing(raw: dict[str, Any], folder: Path, kind: str) -> None:
    """What every published processor of the three families does, and the contract does without asking."""
    for key, expected in (("do_resize", True), ("do_rescale", True), ("do_normalize", True), ("resample", BICUBIC)):
        if raw.get(key, expected) != expected:
            raise InputError(f"{folder}: its processor of {kind} has {key} {raw[key]!r}; supported is {expected!r}")
    if abs(raw.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise InputError(f"{folder}: its processor of {kind} has rescale_factor {raw['rescale_factor']!r}; supported is 1/255")
