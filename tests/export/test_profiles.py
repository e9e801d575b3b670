"""Optimization profiles accept every input that a contract accepts, in all model families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lame_export.engine import profiles as profiles_module
from lame_export.engine.largest import largest_patches
from lame_export.engine.profiles import KINDS, Profiles, Widths, derive_profiles
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract.batch import assemble
from lame_runtime.contract.media.images import smart_resize
from lame_runtime.contract.media.video import clip_size
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import InputError
from lame_runtime.inputs import as_input
from lame_training.contract_from.backbone import derive_contract
from lame_training.contract_from.budget import Budget
from lame_training.model.backbones import FAMILIES
from PIL import Image

GIB = 1 << 30
SMALL = {"encoder": Widths(64, 128, 2), "vision": Widths(64, 128, 2)}
BUDGETS = {
    "digits": Budget(max_length=512, max_pixels=28 * 28 * 16, max_frames=16),
    "published": Budget(max_length=8192, max_pixels=1280 * 28 * 28, max_frames=64),
}
# Around the patch, token and window sizes, and very long ones for strips.
SIDES = (1, 3, 17, 27, 28, 29, 33, 57, 84, 100, 113, 197, 640, 1999, 5600, 20_000)


def contract_of(backbone: Path, budget: str) -> Contract:
    """Derives the contract of a backbone under one of the budgets."""
    return derive_contract(
        backbone, BUDGETS[budget], n_reason=4, dim=64, roles={"query": "", "document": ""}
    )


def picture(width: int, height: int) -> Image.Image:
    """Returns a picture of one color."""
    return Image.new("RGB", (width, height), (200, 90, 30))


def clip(width: int, height: int, frames: int) -> dict[str, Any]:
    """Returns an input with a clip of equal frames and a text."""
    return {"video": [picture(width, height)] * frames, "text": "what happens"}


def raw_inputs() -> list[Any]:
    """Returns inputs as users have them, before any resizing.

    These are texts, strips, small and large pictures, and clips of few and of many frames.
    """
    strips = [
        picture(*size)
        for size in ((84, 28), (28, 84), (200, 1), (1, 200), (10_000, 50), (50, 10_000), (113, 57))
    ]
    clips = [
        clip(width, height, frames)
        for width, height in ((640, 480), (84, 28), (28, 84), (200, 1))
        for frames in (1, 2, 4, 5)
    ]
    return [
        "seven",
        "seven " * 400,
        *strips,
        picture(10, 10),
        picture(640, 480),
        *clips,
        clip(48, 64, 16),
    ]


def accepts(profiles: Profiles, part: str, **sizes: int) -> bool:
    """Returns whether one profile of a part accepts all of these sizes at once."""
    return any(
        all(ranges[name][0] <= size <= ranges[name][2] for name, size in sizes.items())
        for ranges in profiles[part]
    )


def without_profile(profiles: Profiles, preparer: Preparer) -> Iterator[tuple[int, str]]:
    """Yields the inputs, by number, and parts of the model for which there is no profile."""
    for number, item in enumerate(raw_inputs()):
        batch = assemble([preparer(as_input(item), truncate=True)], preparer.contract)
        # A profile has to fit one input alone: larger batches can be split.
        # The features begin with a row of zeros.
        features = 1
        for group in batch.groups:
            pictures, depth, patches, _ = group.vision_feeds()["frames"].shape
            features += pictures * patches // preparer.contract.images.merge_size**2
            windows = len(group.tables["window_index"]) if "window_index" in group.tables else 1
            if not accepts(
                profiles, "vision", pictures=1, depth=depth, patches=patches, windows=windows
            ):
                yield number, "vision"
        length = batch.input_ids.shape[1]
        if not accepts(profiles, "encoder", batch=1, length=length, n_features=features):
            yield number, "encoder"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_raw_input_has_a_profile(
    family: str, kind: str, backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One profile fits the input in every dimension.

    In the control, profiles end at the pixel budget of pictures, which strips and clips exceed.
    """
    contract = contract_of(backbones[family], "digits")
    preparer = Preparer(contract, TextTokenizer(backbones[family] / "tokenizer.json"))
    derived = derive_profiles(contract, SMALL, kind, 8 * GIB)
    assert list(without_profile(derived, preparer)) == []
    budget = contract.images.max_pixels // contract.images.patch_size**2
    monkeypatch.setattr(profiles_module, "largest_patches", lambda contract: budget)
    too_small = derive_profiles(contract, SMALL, kind, 8 * GIB)
    # Prompts are cut to the longest that the contract accepts, so the encoder always fits.
    assert {part for _, part in without_profile(too_small, preparer)} == {"vision"}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_picture_or_frame_is_larger_than_computed(
    family: str, budget: str, backbones: dict[str, Path]
) -> None:
    """The bound holds for shapes up to 200 : 1 and clips of every length, and is nearly reached.

    The sizes come from the contract's own resize rules, also with a minimum area as large as the
    maximum, and without a cap per frame.
    """
    contract = contract_of(backbones[family], budget)
    # Every clip is then resized, up or down, to one area: the largest a small one is scaled up to.
    only_one_area = replace(
        contract, videos=replace(contract.videos, min_pixels=contract.videos.max_pixels)
    )
    uncapped = replace(
        contract,
        videos=replace(
            contract.videos, cap_pixels_per_frame=False, max_pixels=contract.images.max_pixels
        ),
    )
    for rules in (contract, only_one_area, uncapped):
        bound, seen = largest_patches(rules), largest_seen(rules)
        # The bound combines maxima that no single shape reaches together.
        assert seen <= bound <= 1.6 * seen


def largest_seen(contract: Contract) -> int:
    """Returns the patches of the largest grid of many shapes that fits into the longest prompt."""
    images = contract.images
    room, temporal = contract.tokens.max_length * images.merge_size**2, images.temporal_patch_size
    largest = 0
    shapes = [(a, b) for a in SIDES for b in SIDES if max(a, b) <= 200 * min(a, b)]
    for height, width in shapes:
        sizes = [(1, smart_resize(height, width, images))]
        for frames in range(1, contract.videos.max_frames + 1):
            try:
                sizes.append(
                    (
                        -(-frames // temporal),
                        clip_size(frames, height, width, contract.videos, images),
                    )
                )
            except InputError:
                # Rounding a side to whole pixels may make it a strip that is too long.
                continue
        grids = [
            (times, rows * columns // images.patch_size**2) for times, (rows, columns) in sizes
        ]
        largest = max(largest, *(patches for times, patches in grids if times * patches <= room), 0)
    return largest


@pytest.mark.parametrize(
    ("family", "side"), [("qwen2_vl", 28), ("qwen2_5_vl", 28), ("qwen3_vl", 32)]
)
def test_in_a_published_model_pictures_are_the_largest(
    family: str, side: int, backbones: dict[str, Path]
) -> None:
    """Its clips are capped below that, so plans need not go beyond the pixel budget of pictures."""
    contract = contract_of(backbones[family], "published")
    # The budgets of the published models: 64 to 1280 tokens of 28 or 32 pixels a side.
    images = replace(contract.images, max_pixels=1280 * side**2, min_pixels=64 * side**2)
    assert largest_patches(replace(contract, images=images)) == 1280 * 4
