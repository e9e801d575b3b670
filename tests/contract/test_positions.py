"""Positions equal transformers' `get_rope_index` and `get_vision_position_ids`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lame_runtime.contract import Contract
from lame_runtime.contract.positions import Span, mrope_positions
from lame_runtime.contract.tower import interpolation_tables, patch_positions, window_tables
from transformers import Qwen2VLConfig, Qwen2VLModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

GRIDS = [(2, 2), (2, 4), (4, 2), (6, 10), (10, 6), (2, 40), (34, 2)]


@pytest.mark.parametrize("grid", GRIDS)
def test_patch_positions_equal_transformers(grid: tuple[int, int]) -> None:
    """Rows and columns are in merge-block order; transformers keeps them as (patches, 2)."""
    theirs = get_vision_position_ids(torch.tensor([[1, *grid]]), 2)
    assert np.array_equal(patch_positions(grid, 2), theirs.numpy().T)


@pytest.fixture(scope="module")
def model(contract: Contract) -> Qwen2VLModel:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "vocab_size": 320,
            "rope_parameters": rope,
        },
        vision_config={"depth": 1, "embed_dim": 32, "num_heads": 1, "hidden_size": 32},
        image_token_id=contract.tokens.image_pad,
    )
    return Qwen2VLModel(config)


@pytest.mark.parametrize(
    "grids", [[], *[[grid] for grid in GRIDS], [(2, 4), (6, 10)], [(10, 6), (2, 2), (4, 4)]]
)
def test_mrope_positions_equal_get_rope_index(
    grids: list[tuple[int, int]], contract: Contract, model: Qwen2VLModel
) -> None:
    """Positions agree for text before, between and after pictures, with latent ids at the end."""
    rules = contract.tokens
    ids = [207, 208, 209]
    for rows, columns in grids:
        ids += [203, *[rules.image_pad] * (rows * columns // 4), 204, 211, 212]
    ids += range(rules.first_latent, rules.first_latent + 9)
    array = np.array(ids, dtype=np.int64)
    theirs, _ = model.get_rope_index(
        torch.from_numpy(array)[None],
        mm_token_type_ids=(torch.from_numpy(array) == rules.image_pad).int()[None],
        image_grid_thw=torch.tensor([[1, *grid] for grid in grids]) if grids else None,
    )
    spans = [Span((1, rows // 2, columns // 2)) for rows, columns in grids]
    assert np.array_equal(mrope_positions(array, spans, rules), theirs[:, 0].numpy())


def test_latent_rows_continue_at_the_largest_position(contract: Contract) -> None:
    """After a wide picture the reason tokens start behind its widest side, on all three axes."""
    rules = contract.tokens
    ids = np.array([203, *[rules.image_pad] * 20, 204, *range(300, 309)])
    positions = mrope_positions(ids, [Span((1, 1, 20))], rules)
    assert positions[:, 21].tolist() == [21, 21, 21]
    assert positions[:, 22:].tolist() == [list(range(22, 31))] * 3


@pytest.mark.parametrize("grid", [*GRIDS, (8, 8), (16, 24), (18, 30), (20, 8)])
def test_windows_hold_the_patches_that_transformers_lets_attend_to_each_other(
    grid: tuple[int, int],
) -> None:
    """The windows are the same sets in the same order, and every patch has one place."""
    order, bounds = get_vision_window_index(
        torch.tensor([[1, *grid]]), spatial_merge_size=2, window_size=112, patch_size=14
    )
    patches = (order[:, None] * 4 + torch.arange(4)).flatten().tolist()
    theirs = [
        sorted(patches[start:stop])
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    tables = window_tables(patch_positions(grid, 2), 8)
    ours = [
        sorted(index[mask].tolist())
        for index, mask in zip(tables["window_index"], tables["window_mask"], strict=True)
    ]
    assert ours == theirs
    assert np.array_equal(
        tables["window_index"].reshape(-1)[tables["window_place"]], np.arange(grid[0] * grid[1])
    )
    assert tables["window_mask"].reshape(-1)[tables["window_place"]].all()


@pytest.mark.parametrize("grid", [*GRIDS, (48, 48), (18, 30)])
@pytest.mark.parametrize("side", [8, 48])
def test_interpolated_positions_equal_transformers(grid: tuple[int, int], side: int) -> None:
    """Taps and weights are equal bit for bit."""
    index, weight = get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, *grid]]), num_grid_per_side=side, align_corners=True, spatial_merge_size=2
    )
    tables = interpolation_tables(patch_positions(grid, 2), grid, side)
    assert np.array_equal(tables["interpolation_index"], index.numpy().T)
    assert np.array_equal(tables["interpolation_weight"], weight.numpy().T)
