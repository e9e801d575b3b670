"""Reads the picture and video rules of a backbone folder from its processor files.

Newer versions of transformers write one `processor_config.json` with nested objects, older ones a
`preprocessor_config.json` and a `video_preprocessor_config.json`. Values that a folder does not
give are the family's published ones.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from lame_runtime.contract import ImageRules, VideoRules
from lame_runtime.errors import BundleError, shown
from transformers import PreTrainedConfig

from lame_training.contract_from.budget import Budget, within_budget
from lame_training.contract_from.published_rules import published_images, published_videos
from lame_training.model.backbones import family_of
from lame_training.model.from_disk.tensors import read_object

BICUBIC = 3
"""Pillow's number of the resampling filter, which processor files give."""


def image_rules(folder: Path, config: PreTrainedConfig, budget: Budget) -> ImageRules:
    """Reads the picture rules of a folder.

    Args:
        folder: the backbone folder.
        config: its config, whose vision tower the rules must fit.
        budget: lowers the pixel limits.

    Raises:
        BundleError: the files contradict the config or ask for what the contract does not do.
        ValueError: a value cannot be used; also TypeError, AttributeError, LookupError and
            ArithmeticError, because the files hold arbitrary JSON.
    """
    raw = read_object(folder / "processor_config.json").get("image_processor") or read_object(
        folder / "preprocessor_config.json"
    )
    defaults = published_images(family_of(config))
    rules = dataclasses.replace(
        defaults, **_pixels(raw, defaults), **_channels(raw, defaults), **_geometry(raw, defaults)
    )
    _check_processing(raw, folder, "pictures")
    vision = config.vision_config
    for name, config_name in (
        ("patch_size", "patch_size"),
        ("temporal_patch_size", "temporal_patch_size"),
        ("merge_size", "spatial_merge_size"),
    ):
        value, expected = getattr(rules, name), getattr(vision, config_name)
        if value != expected:
            raise BundleError(
                f"{folder}: its processor has {name} {value}, config.json {expected}; "
                "they belong to two models"
            )
    largest = min(rules.max_pixels, budget.max_pixels)
    return dataclasses.replace(rules, max_pixels=largest, min_pixels=min(rules.min_pixels, largest))


def video_rules(
    folder: Path, config: PreTrainedConfig, images: ImageRules, budget: Budget | None
) -> VideoRules:
    """Reads the video rules of a folder.

    Args:
        folder: the backbone folder.
        config: its config; Qwen2.5-VL's holds the temporal positions per second.
        images: the picture rules, whose patches videos share.
        budget: lowers the limits of frames and pixels; None keeps the folder's.

    Raises:
        BundleError: the files ask for what the contract does not do.
        ValueError: as in `image_rules`.
    """
    raw = read_object(folder / "processor_config.json").get("video_processor") or read_object(
        folder / "video_preprocessor_config.json"
    )
    defaults = published_videos(family_of(config))
    if not raw:
        # transformers then reads the pictures' file
        defaults = dataclasses.replace(defaults, mean=images.mean, std=images.std)
    _check_processing(raw, folder, "videos")
    for key in ("patch_size", "temporal_patch_size", "merge_size"):
        # the contract has one patch geometry, that of pictures
        if raw.get(key, getattr(images, key)) != getattr(images, key):
            raise ValueError(
                f"videos are cut by {key} {shown(repr(raw[key]))}, "
                f"pictures by {getattr(images, key)}"
            )
    values: dict[str, Any] = {
        key: int(raw[key])
        for key in ("min_frames", "max_frames", "max_video_tokens")
        if raw.get(key) is not None
    }
    if raw.get("fps") is not None:
        values["fps"] = float(raw["fps"])
    if raw.get("cap_pixels_per_frame") is not None:
        values["cap_pixels_per_frame"] = bool(raw["cap_pixels_per_frame"])
    # a constant of the model, not of its processor; the other families count temporal patches
    values["tokens_per_second"] = float(getattr(config.vision_config, "tokens_per_second", 0))
    rules = dataclasses.replace(
        defaults, **values, **_pixels(raw, defaults), **_channels(raw, defaults)
    )
    return rules if budget is None else within_budget(rules, images, budget)


def check_numbers(images: ImageRules, videos: VideoRules) -> None:
    """Raises `ValueError` if the rules would prepare no picture or video at all."""
    least = (images.patch_size * images.merge_size) ** 2
    if (
        min(images.max_pixels, videos.max_pixels) < least
        or min(images.min_pixels, videos.min_pixels) < 1
    ):
        raise ValueError(f"a pixel budget below {least}")
    if min(*images.std, *videos.std) <= 0:
        raise ValueError("a std that is not positive")
    # the comparison is False for an fps of NaN as well
    if (
        videos.max_frames < images.temporal_patch_size
        or videos.min_frames < 1
        or not 0 < videos.fps < 1e4
    ):
        raise ValueError(
            f"videos of {videos.min_frames} to {videos.max_frames} frames, {videos.fps} per second"
        )


def _pixels(raw: dict[str, Any], defaults: ImageRules | VideoRules) -> dict[str, Any]:
    """Returns the pixel limits of a processor file."""
    size = raw.get("size") or {}
    # height and width ask for a fixed size, which no family resizes to
    if size and not {"shortest_edge", "longest_edge", "min_pixels", "max_pixels"} & set(size):
        raise ValueError(f"size {shown(size)} is not a pixel budget")
    # Despite their names the two edges are numbers of pixels, as in transformers' own processors.
    least = _first_given(
        raw.get("min_pixels"),
        size.get("shortest_edge"),
        size.get("min_pixels"),
        defaults.min_pixels,
    )
    most = _first_given(
        raw.get("max_pixels"), size.get("longest_edge"), size.get("max_pixels"), defaults.max_pixels
    )
    return {"min_pixels": int(least), "max_pixels": int(most)}


def _first_given(*values: Any) -> Any:
    """Returns the first value that is not None; 0 counts as given."""
    return next(value for value in values if value is not None)


def _channels(raw: dict[str, Any], defaults: ImageRules | VideoRules) -> dict[str, Any]:
    """Returns the normalization of a processor file, per RGB channel."""
    mean = _first_given(raw.get("image_mean"), defaults.mean)
    std = _first_given(raw.get("image_std"), defaults.std)
    # by index, so that a single number or a list that is too short raises here
    return {
        "mean": (float(mean[0]), float(mean[1]), float(mean[2])),
        "std": (float(std[0]), float(std[1]), float(std[2])),
    }


def _geometry(raw: dict[str, Any], defaults: ImageRules) -> dict[str, Any]:
    """Returns the patch geometry of a processor file."""
    return {
        key: int(_first_given(raw.get(key), getattr(defaults, key)))
        for key in ("patch_size", "temporal_patch_size", "merge_size")
    }


def _check_processing(raw: dict[str, Any], folder: Path, kind: str) -> None:
    """Raises `BundleError` if a processor file switches off or changes a step of preprocessing.

    The contract has no switches for these steps: all published processors resize (bicubic),
    rescale to 0..1 and normalize.
    """
    for key, expected in (
        ("do_resize", True),
        ("do_rescale", True),
        ("do_normalize", True),
        ("resample", BICUBIC),
    ):
        if raw.get(key, expected) != expected:
            raise BundleError(
                f"{folder}: its processor of {kind} has {key} {shown(repr(raw[key]))}; "
                f"supported is {expected!r}"
            )
    # compared with a tolerance, because files give 1/255 with different numbers of digits
    if abs(raw.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise BundleError(
            f"{folder}: its processor of {kind} has rescale_factor "
            f"{shown(repr(raw['rescale_factor']))}; "
            "supported is 1/255"
        )
