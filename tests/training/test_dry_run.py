"""`--dry-run` describes the run, and its estimate of memory is close to what autograd keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from lame_training.__main__ import main
from lame_training.model.lame import LaMEModel
from lame_training.model.published_shapes import SHAPES
from lame_training.recipes.catalog import find_recipe
from lame_training.run.dry_run.description import describe
from lame_training.run.dry_run.memory_estimate import activations
from lame_training.run.train_options import TrainOptions
from transformers import Qwen2VLConfig, Qwen3Config


def test_a_published_recipe_is_described_without_any_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The parts, frozen and trained, and the memory are shown; nothing is written."""
    assert main(["run", "lame-qwen2-vl-2b", "--dry-run", "--output", str(tmp_path / "x")]) == 0
    output = capsys.readouterr().out
    lines = {
        line.split()[0]: line.split()
        for line in output.splitlines()
        if line and not line.startswith(" ")
    }
    assert lines["vision"][2:] == ["frozen", "frozen"]
    assert lines["language_model"][2:] == ["frozen", "5.0e-05"]
    assert lines["language_model"][1] == "1,543,714,304"
    assert lines["decoder"][1] == "596,049,920", "Qwen3-0.6B"
    assert "the rest is ours" in output
    assert not list(tmp_path.iterdir())


def test_with_adapters_the_language_model_itself_is_frozen() -> None:
    """The adapter has a line of its own."""
    output = describe(find_recipe("lame-qwen3-vl-8b-lora"), None, TrainOptions())
    assert [
        line.split()[-2:] for line in output.splitlines() if line.startswith("language_model ")
    ] == [
        ["frozen", "frozen"],
        ["frozen", "5.0e-05"],
    ]


def test_rows_and_a_backbone_are_read_when_given(data: Path, backbones: dict[str, Path]) -> None:
    """The rows are counted, and the backbone has its own shape."""
    options = TrainOptions(backbone=backbones["qwen2_5_vl"])
    output = describe(find_recipe("digits-tiny"), data, options)
    assert "sum2: 120 rows: 21.7% of the sub-batches, decodes: positive" in output
    assert f"qwen2_5_vl, {backbones['qwen2_5_vl']}" in output


def test_options_that_change_the_recipe_are_described() -> None:
    """Seed and prefix lengths are shown as they will be trained."""
    output = describe(
        find_recipe("digits-tiny"), None, TrainOptions(seed=7, matryoshka=(16, 32, 16))
    )
    assert "recipe digits-tiny: K 4, vectors of 64, seed 7" in output
    assert "  matryoshka: (32, 16)" in output


def test_every_published_recipe_has_a_shape() -> None:
    """The four recipes of the paper name a shape that can be built."""
    recipes = [
        find_recipe(name)
        for name in (
            "lame-qwen2-vl-2b",
            "lame-qwen2.5-vl-3b",
            "lame-qwen2-vl-7b",
            "lame-qwen3-vl-8b",
        )
    ]
    assert all(recipe.published_shape in SHAPES for recipe in recipes)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_of_activations_is_near_what_autograd_keeps(checkpointing: bool) -> None:
    """The estimate is within a third of all tensors that backbone and decoder save for backward."""
    text = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 500,
        "bos_token_id": None,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
    }
    tower = {"depth": 1, "embed_dim": 32, "hidden_size": 128, "num_heads": 2, "mlp_ratio": 2}
    decoder = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    model = LaMEModel.from_configs(
        Qwen2VLConfig(text_config=text, vision_config=tower),
        Qwen3Config(
            **decoder,
            head_dim=32,
            vocab_size=500,
            bos_token_id=None,
            eos_token_id=2,
            tie_word_embeddings=True,
        ),
        8,
        128,
    )
    model.initialize_latents(2)
    model.train()
    recipe = dataclasses.replace(find_recipe("digits"), gradient_checkpointing=checkpointing)
    if checkpointing:
        model.backbone.activation_checkpointing_enable({"use_reentrant": False})
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        # by storage: views of one tensor take its memory once
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            saved[address] = tensor
        return tensor

    inputs, tokens, target = 4, 96, 16
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        rows = torch.randn(inputs, tokens, 128, requires_grad=True)
        states = model.backbone.language_model(
            inputs_embeds=rows, use_cache=False
        ).last_hidden_state
        ids = torch.ones(inputs, target, dtype=torch.int64)
        logits = model.reconstruction_logits(states[:, -8:], torch.tensor([1]), ids)
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), torch.ones(inputs * (target + 1), dtype=torch.int64)
        )
    counted = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    estimated = activations(recipe, model, inputs, tokens, target)
    if checkpointing:
        # the one block that is recomputed at a time is kept only during the backward pass
        estimated -= inputs * tokens * (48 * 128 + 16 * 384)
    assert 0.67 < estimated / counted < 1.5
