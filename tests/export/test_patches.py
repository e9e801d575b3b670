"""The graph turns bytes into the processors' patches, and embeds them as the convolution does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_runs import picture_feeds
from lame_export.forward.layers import Affine
from lame_export.forward.patches import Pixels, by_bytes
from lame_runtime.backends.onnxruntime import open_session, run_session
from lame_runtime.contract.batch import PictureGroup, assemble
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.rules import Contract
from lame_runtime.contract.tower import tower_tables
from lame_runtime.inputs import as_input
from PIL import Image
from torch import Tensor, nn

GRID = (4, 6)


def group_of(contract: Contract, depth: int) -> PictureGroup:
    """Makes three pictures (depth 1) or pairs of frames of random pixels."""
    side = contract.images.patch_size
    shape = (3, depth, GRID[0] * side, GRID[1] * side, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return PictureGroup(frames, contract.images, tower_tables(GRID, contract), GRID, merged=6)


def run(group: PictureGroup, pixels: Pixels) -> Tensor:
    """Returns the graph's patches, (N, S, depth · 3 p²)."""
    feeds = group.vision_feeds()
    strip_index = torch.from_numpy(feeds["strip_index"].copy())
    return pixels(torch.from_numpy(feeds["frames"]), strip_index)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_graphs_patches_are_the_processors(depth: int, preparer: Preparer) -> None:
    """The order of values within a patch differs, and a picture stands for both frames.

    In the control, two strips change places.
    """
    rules = preparer.contract.images
    group = group_of(preparer.contract, depth)
    theirs = group.pixel_patches().reshape(3, 24, 3, 2, -1)
    pixels = Pixels(rules)

    def ours(group: PictureGroup) -> Any:
        # to (picture, patch, channel, frame, pixel)
        patches = run(group, pixels).reshape(3, 24, 2, -1, 3).numpy()
        return patches.transpose(0, 1, 4, 2, 3)

    assert np.abs(ours(group) - theirs).max() < 1e-6
    strips = np.flip(group.tables["strip_index"], axis=0)
    changed = replace(group, tables={**group.tables, "strip_index": strips})
    assert np.abs(ours(changed) - theirs).max() > 0.1


def test_the_product_is_the_convolutions(preparer: Preparer) -> None:
    """It is over a picture given once and over two frames; in the control they are compared."""
    torch.manual_seed(0)
    rules = preparer.contract.images
    side = rules.patch_size
    convolution = nn.Conv3d(3, 8, (2, side, side), stride=(2, side, side))
    embed, pixels = Affine(by_bytes(convolution.weight), convolution.bias), Pixels(rules)

    def expected(group: PictureGroup) -> Tensor:
        patches = torch.from_numpy(group.pixel_patches()).reshape(-1, 3, 2, side, side)
        return convolution(patches).reshape(3, 24, 8)

    picture, clip = group_of(preparer.contract, 1), group_of(preparer.contract, 2)
    with torch.inference_mode():
        once = embed(run(picture, pixels))
        assert torch.allclose(once, expected(picture), atol=1e-5)
        assert torch.allclose(embed(run(clip, pixels)), expected(clip), atol=1e-5)
        assert not torch.allclose(once, expected(clip), atol=0.1)


def test_a_picture_and_a_still_video_have_the_same_features(exported: Path) -> None:
    """The graph takes the picture for both frames."""
    contract = Contract.load(exported / "contract.json")
    session = open_session(exported / "graphs/vision.fp32.onnx")
    picture = picture_feeds(GRID, contract)
    still = {**picture, "frames": np.repeat(picture["frames"], 2, axis=1)}
    moving = picture_feeds(GRID, contract, depth=2)
    features = [run_session(session, feeds)["features"] for feeds in (picture, still, moving)]
    assert np.abs(features[0] - features[1]).max() < 1e-5
    assert np.abs(features[0] - features[2]).max() > 0.1


def test_pictures_and_videos_are_in_separate_groups(preparer: Preparer) -> None:
    """They have one and two frames in a temporal patch; a picture that is alone is not copied."""
    picture = Image.new("RGB", (56, 56), (90, 20, 200))
    items = [preparer(as_input(item)) for item in ({"image": picture}, {"video": [picture] * 4})]
    batch = assemble(items, preparer.contract)
    assert [group.frames.shape[:2] for group in batch.groups] == [(1, 1), (2, 2)]
    assert np.shares_memory(batch.groups[0].frames, items[0].visuals[0].frames)
    # 1 + the number of a feature: the picture's, and then those of two temporal patches
    picture_tokens, clip_tokens = (group.merged for group in batch.groups)
    assert batch.feature_index[0].max() == picture_tokens
    first = 1 + picture_tokens
    assert set(batch.feature_index[1]) == {0, *range(first, first + 2 * clip_tokens)}
