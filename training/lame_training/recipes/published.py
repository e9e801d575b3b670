"""The four configurations of LaME (arXiv 2606.13061), and their variants with LoRA."""

from __future__ import annotations

from dataclasses import replace

from lame_training.contract_from.budget import Budget
from lame_training.model.adapters import LoRA
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.stages import Stage

QWEN3_0_6B = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
"""Config of Qwen3-0.6B, the latent decoder that the paper names for its 2B model."""

# L_rec alone, on a frozen backbone. New rows take a large rate, the pretrained decoder a small.
WARM_UP_RATES = {"reason": 1e-3, "connector": 1e-4, "decoder": 2e-5}
# The vision tower stays frozen in both stages.
JOINT_RATES = {
    **WARM_UP_RATES,
    "language_model": 5e-5,
    "merger": 5e-5,
    "embed": 1e-3,
    "head": 1e-4,
}


def _published(
    name: str, shape: tuple[str, str], dim: int, from_paper: tuple[str, ...], factor: int = 28
) -> Recipe:
    """Returns one of the paper's configurations.

    The paper states the values named in `from_paper`. Rates, schedule, batches, temperature, λ and
    budgets are ours, taken from the closest published relatives (VLM2Vec-V2).

    Args:
        name: name of the recipe.
        shape: family and size of the backbone.
        dim: the paper's "projection dim".
        from_paper: names of the values that the paper states.
        factor: pixels along one side of a merged visual token.
    """
    return Recipe(
        name=name,
        scratch=None,
        decoder=QWEN3_0_6B,
        n_reason=8,
        dim=dim,
        budget=Budget(max_length=8192, max_pixels=1280 * factor * factor, max_frames=64),
        stages=(
            Stage(
                "bottleneck warm-up",
                steps=1000,
                batch_size=256,
                sub_batch=16,
                rates=WARM_UP_RATES,
                nce_weight=0.0,
                rec_weight=1.0,
                # those of the data root or the mixture
                tasks=(),
                warmup=0.03,
            ),
            Stage(
                "joint optimization",
                steps=5000,
                batch_size=1024,
                sub_batch=64,
                rates=JOINT_RATES,
                nce_weight=1.0,
                rec_weight=1.0,
                tasks=(),
                warmup=0.03,
            ),
        ),
        # VLM2Vec-V2's, as are the batch of 1,024, the sub-batches of 64 and the 5,000 steps above
        temperature=0.02,
        # inputs of up to 8,192 tokens: a chunk must fit in memory with its graph
        chunk=8,
        gradcache=True,
        precision="bf16",
        gradient_checkpointing=True,
        published_shape=shape,
        from_paper=from_paper,
    )


PUBLISHED = (
    _published(
        "lame-qwen2-vl-2b",
        ("qwen2_vl", "2b"),
        3584,
        ("backbone", "n_reason", "decoder", "dim", "stages' order"),
    ),
    _published(
        "lame-qwen2.5-vl-3b", ("qwen2_5_vl", "3b"), 2048, ("backbone", "dim", "stages' order")
    ),
    _published("lame-qwen2-vl-7b", ("qwen2_vl", "7b"), 3584, ("backbone", "dim", "stages' order")),
    _published(
        "lame-qwen3-vl-8b",
        ("qwen3_vl", "8b"),
        4096,
        ("backbone", "dim", "stages' order"),
        # patches of 16 pixels, merged two by two
        factor=32,
    ),
)
"""The recipes of the paper's four models."""


def with_lora(recipe: Recipe) -> Recipe:
    """Returns the recipe with adapters in the language model, in the form VLM2Vec-V2 trains."""
    return replace(recipe, name=f"{recipe.name}-lora", lora=LoRA())
