"""Optimisation profiles: every input that a contract lets through has one, whatever its family, shape and length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lame_export.engine import profiles
from lame_export.engine.largest import largest_patches
from lame_export.engine.profiles import KINDS, Profiles, Widths, derive
from lame_runtime.batching import assemble
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract.images import smart_resize
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.contract.video import clip_size
from lame_runtime.errors import InputError
from lame_runtime.inputs import as_input
from lame_training.backbones import FAMILIES
from lame_training.derive import Budget, derive_contract
from PIL import Image

GIB = 1 << 30
SMALL = {"encoder": Widths(64, 128, 2), "vision": Widths(64, 128, 2)}
BUDGETS = {
    "digits": Budget(max_length=512, max_pixels=28 * 28 * 16, max_frames=16),
    "published": Budget(max_length=8192, max_pixels=1280 * 28 * 28, max_frames=64),
}
SIDES = (1, 3, 17, 27, 28, 29, 33, 57, 84, 100, 113, 197, 640, 1999, 5600, 20_000)


def contract_of(backbone: Path, budget: str) -> Contract:
    return derive_contract(backbone, BUDGETS[budget], n_reason=4, dim=64, roles={"query": "", "document": ""})


def picture(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (200, 90, 30))


def clip(width: int, height: int, frames: int) -> dict[str, Any]:
    return {"video": [picture(width, height)] * frames, "text": "what happens"}


def raw_inputs() -> list[Any]:
    """As users have them, not resized: texts, strips, small and large pictures, clips of few and of many frames."""
    strips = [picture(*size) for size in ((84, 28), (28, 84), (200, 1), (1, 200), (10_000, 50), (50, 10_000), (113, 57))]
    clips = [clip(width, height, frames) for width, height in ((640, 480), (84, 28), (28, 84), (200, 1)) for frames in (1, 2, 4, 5)]
    return ["seven", "seven " * 400, *strips, picture(10, 10), picture(640, 480), *clips, clip(48, 64, 16)]


def takes(found: Profiles, part: str, **sizes: int) -> bool:
    """Whether one profile takes all of these at once."""
    return any(all(ranges[name][0] <= size <= ranges[name][2] for name, size in sizes.items()) for ranges in found[part])


def left_over(found: Profiles, preparer: Preparer) -> Iterator[tuple[int, str]]:
    """Inputs, by number, and parts of the model that no profile takes."""
    for number, item in enumerate(raw_inputs()):
        batch = assemble([preparer(as_input(item), truncate=True)], preparer.contract)
        features = 1
        for group in batch.groups:
            pictures, patches, _ = group.pixel_patches.shape
            features += pictures * patches // preparer.contract.images.merge_size**2
            windows = len(group.tables["window_index"]) if "window_index" in group.tables else 1
            if not takes(found, "vision", pictures=1, patches=patches, windows=windows):
                yield number, "vision"
        if not takes(found, "encoder", batch=1, length=batch.input_ids.shape[1], n_features=features):
            yield number, "encoder"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_raw_input_has_a_profile(family: str, kind: str, backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """In every dimension; the control ends the profiles at the pictures' budget, which strips and clips leave."""
    contract = contract_of(backbones[family], "digits")
    preparer = Preparer(contract, TextTokenizer(backbones[family] / "tokenizer.json"))
    assert list(left_over(derive(contract, SMALL, kind, 8 * GIB), preparer)) == []
    budget = contract.images.max_pixels // contract.images.patch_size**2
    monkeypatch.setattr(profiles, "largest_patches", lambda contract: budget)
    assert {part for _, part in left_over(derive(contract, SMALL, kind, 8 * GIB), preparer)} == {"vision"}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_picture_or_frame_is_larger_than_reckoned(family: str, budget: str, backbones: dict[str, Path]) -> None:
    """The contract's own arithmetic over shapes up to 200 : 1 and clips of every length; what is reckoned is nearly reached."""
    contract = contract_of(backbones[family], budget)
    least_is_most = replace(contract, videos=replace(contract.videos, min_pixels=contract.videos.max_pixels))
    uncapped = replace(contract, videos=replace(contract.videos, cap_pixels_per_frame=False, max_pixels=contract.images.max_pixels))
    for rules in (contract, least_is_most, uncapped):
        reckoned, seen = largest_patches(rules), largest_seen(rules)
        assert seen <= reckoned <= 1.6 * seen


def largest_seen(contract: Contract) -> int:
    """Patches of the largest grid of many shapes that still fits into the longest prompt."""
    images = contract.images
    room, temporal = contract.tokens.max_length * images.merge_size**2, images.temporal_patch_size
    found = 0
    for height, width in ((a, b) for a in SIDES for b in SIDES if max(a, b) <= 200 * min(a, b)):
        sizes = [(1, smart_resize(height, width, images))]
        for frames in range(1, contract.videos.max_frames + 1):
            try:
                sizes.append((-(-frames // temporal), clip_size(frames, height, width, contract.videos, images)))
            except InputError:  # a side of whole pixels may make it a strip that is too long
                continue
        patches = [(times, rows * columns // images.patch_size**2) for times, (rows, columns) in sizes]
        found = max(found, *(each for times, each in patches if times * each <= room), 0)
    return found


@pytest.mark.parametrize(("family", "side"), [("qwen2_vl", 28), ("qwen2_5_vl", 28), ("qwen3_vl", 32)])
def test_in_a_published_model_pictures_are_the_largest(family: str, side: int, backbones: dict[str, Path]) -> None:
    """Its clips are capped below them, so a plan need not be built for more than the pictures' budget."""
    contract = contract_of(backbones[family], "published")
    images = replace(contract.images, max_pixels=1280 * side**2, min_pixels=64 * side**2)
    assert largest_patches(replace(contract, images=images)) == 1280 * 4
