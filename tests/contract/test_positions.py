"""Positions equal transformers' `get_rope_index` and `get_vision_position_ids`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lame_runtime.contract import Contract
from lame_runtime.contract.positions import mrope_positions, patch_positions
from transformers import Qwen2VLConfig, Qwen2VLModel
from transformers.vision_utils import get_vision_position_ids

GRIDS = [(2, 2), (2, 4), (4, 2), (6, 10), (10, 6), (2, 40), (34, 2)]


@pytest.mark.parametrize("grid", GRIDS)
def test_patch_positions_equal_transformers(grid: tuple[int, int]) -> None:
    """Rows and columns in merge-block order; transformers keeps them as (patches, 2)."""
    theirs = get_vision_position_ids(torch.tensor([[1, *grid]]), 2)
    assert np.array_equal(patch_positions(grid, 2), theirs.numpy().T)


@pytest.fixture(scope="module")
def model(contract: Contract) -> Qwen2VLModel:
    config = Qwen2VLConfig(
        text_config={"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
                     "vocab_size": 320, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}},
        vision_config={"depth": 1, "embed_dim": 32, "num_heads": 1, "hidden_size": 32},
        image_token_id=contract.tokens.image_pad,
    )  # fmt: skip
    return Qwen2VLModel(config)


@pytest.mark.parametrize("grids", [[], *[[grid] for grid in GRIDS], [(2, 4), (6, 10)], [(10, 6), (2, 2), (4, 4)]])
def test_mrope_positions_equal_get_rope_index(grids: list[tuple[int, int]], contract: Contract, model: Qwen2VLModel) -> None:
    """Text before, between and after pictures, latent ids at the end."""
    rules = contract.tokens
    ids = [7, 8, 9]
    for rows, columns in grids:
        ids += [rules.vision_start, *[rules.image_pad] * (rows * columns // 4), rules.vision_end, 11, 12]
    ids += range(rules.first_latent, rules.first_latent + 9)
    array = np.array(ids, dtype=np.int64)
    theirs, _ = model.get_rope_index(
        torch.from_numpy(array)[None],
        mm_token_type_ids=(torch.from_numpy(array) == rules.image_pad).int()[None],
        image_grid_thw=torch.tensor([[1, *grid] for grid in grids]) if grids else None,
    )
    assert np.array_equal(mrope_positions(array, grids, 2, rules), theirs[:, 0].numpy())


def test_latent_rows_continue_at_the_largest_position(contract: Contract) -> None:
    """After a wide picture the reason tokens start behind its widest side, on all three axes."""
    rules = contract.tokens
    ids = np.array([rules.vision_start, *[rules.image_pad] * 20, rules.vision_end, *range(300, 309)])
    positions = mrope_positions(ids, [(2, 40)], 2, rules)
    assert positions[:, 21].tolist() == [21, 21, 21]
    assert positions[:, 22:].tolist() == [list(range(22, 31))] * 3
