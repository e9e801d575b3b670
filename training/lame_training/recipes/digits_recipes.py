"""Recipes that train on the handwritten digits, from random weights.

The values were found by experiment; training/LOG.md in the repository has the figures.
"""

from __future__ import annotations

from dataclasses import replace

from lame_runtime.contract.rules import ImageRules, PromptLayout

from lame_training.contract_from.budget import Budget
from lame_training.contract_from.published_rules import CLIP_MEAN, CLIP_STD
from lame_training.data import DataSet, digits
from lame_training.recipes.recipe import Recipe, Scratch
from lame_training.recipes.stages import Stage

EVERY_PART = (
    "vision",
    "merger",
    "language_model",
    "reason",
    "embed",
    "head",
    "connector",
    "decoder",
)
"""The parts of the model, as `LaMEModel.part` names them."""

# "positive": the query's reason tokens decode the answer
ANSWERED = (
    DataSet("digit", "positive", instruction=digits.CLASSIFY),
    *(DataSet(question.name, "positive") for question in digits.QUESTIONS),
)
# "query": the picture's reason tokens decode the description that it is found by
DESCRIBED = tuple(
    DataSet(f"find{count}", "query", instruction=digits.FIND_PICTURE) for count in (2, 3)
)
# picture → picture: there is no text to decode
SAME_SUM = (DataSet("same2", "none"),)
DATA_SETS = {task.name: task for task in (*ANSWERED, *DESCRIBED, *SAME_SUM)}

MAX_PIXELS = 28 * 28 * 16
"""Largest picture: four digits in a row are 28 by 112 pixels, so this leaves room."""


def _weighted(begins: float = 0.0, **weights: float) -> tuple[DataSet, ...]:
    """Returns the named data sets with these weights; they join in after a share of the stage."""
    return tuple(
        replace(DATA_SETS[name], weight=weight, begins=begins) for name, weight in weights.items()
    )


SCRATCH = Scratch(
    config={
        "text_config": {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            # the usual 0.02 is for wide models: at width 128 InfoNCE never leaves its plateau
            "initializer_range": 0.08,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                # half of the head's 32 dimensions, for M-RoPE's time, height and width
                "mrope_section": [4, 6, 6],
            },
        },
        "vision_config": {
            "depth": 2,
            "embed_dim": 64,
            "num_heads": 2,
            "mlp_ratio": 4,
            # the tower's output width, which must be the language model's
            "hidden_size": 128,
            "patch_size": 14,
            "initializer_range": 0.08,
        },
    },
    # 256 bytes, the special tokens, and merges: the words of the tasks are few
    vocab_size=512,
    prompt=PromptLayout(
        prefix="<|im_start|>",
        suffix="<|im_end|>",
        separator="\n",
        roles={"query": "", "document": ""},
    ),
    images=ImageRules(
        patch_size=14,
        temporal_patch_size=2,
        merge_size=2,
        # a digit's cell of 28 by 28 pixels: four patches, merged into one visual token
        min_pixels=28 * 28,
        max_pixels=MAX_PIXELS,
        mean=CLIP_MEAN,
        std=CLIP_STD,
    ),
)
"""A Qwen2-VL of about a million parameters."""

WARM_UP = Stage(
    "bottleneck warm-up",
    steps=100,
    batch_size=64,
    sub_batch=32,
    # From random weights there is no pretrained tower to freeze, so both stages train every part
    # that their loss reaches. L_rec does not reach [EMBED] and the head.
    rates=dict.fromkeys((part for part in EVERY_PART if part not in ("embed", "head")), 1.5e-3),
    nce_weight=0.0,
    rec_weight=1.0,
    # All tasks at once stall L_rec at 1.2 nats per token; one digit alone gets below 0.1 here.
    tasks=_weighted(digit=1),
)
JOINT = Stage(
    "joint optimization",
    steps=580,
    batch_size=128,
    sub_batch=64,
    # 3e-3 falls back to InfoNCE's plateau.
    rates=dict.fromkeys(EVERY_PART, 1e-3),
    nce_weight=1.0,
    rec_weight=1.0,
    tasks=(
        *_weighted(digit=1.5, sum2=2, find2=2),
        # From the first step on, the harder tasks cost those on two digits 2 to 5 points.
        *_weighted(
            0.65,
            sum3=1,
            find3=1,
            largest=0.3,
            evens=0.3,
            second=0.3,
            ascending=0.3,
            same2=0.5,
        ),
    ),
)

DIGITS = Recipe(
    name="digits",
    scratch=SCRATCH,
    decoder={
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "tie_word_embeddings": True,
        "initializer_range": 0.08,
    },
    n_reason=4,
    # the vector is as long as the backbone is wide, although the head reads five states
    dim=128,
    budget=Budget(max_length=512, max_pixels=MAX_PIXELS, max_frames=16),
    stages=(WARM_UP, JOINT),
    pooling="concat",
)
"""Trains in about five minutes on two cores.

Four reason tokens and a head over all latent states are what the ablation selected (LOG.md).
"""


def without_reason_tokens(recipe: Recipe) -> Recipe:
    """Returns the K = 0 variant: a plain embedder on the same rows, with L_nce in both stages."""
    return replace(
        recipe,
        name=f"{recipe.name}-k0",
        n_reason=0,
        decoder=None,
        # without reason states there is nothing to concatenate, and no decoder that could read any
        pooling="embed",
        stages=contrastive(recipe.stages),
    )


def without_reconstruction(recipe: Recipe) -> Recipe:
    """Returns the variant without L_rec: the same reason tokens, L_nce alone in both stages."""
    return replace(
        recipe, name=f"{recipe.name}-no-rec", decoder=None, stages=contrastive(recipe.stages)
    )


def contrastive(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Returns the stages with L_nce alone in each, at the last stage's largest rate."""
    # the first stage's rates are for L_rec, and lack the parts that only L_nce reaches
    rate = max(stages[-1].rates.values())
    return tuple(
        replace(stage, nce_weight=1.0, rec_weight=0.0, rates=dict.fromkeys(EVERY_PART, rate))
        for stage in stages
    )


def tiny(recipe: Recipe) -> Recipe:
    """Returns a digits recipe cut down to a few seconds, for tests and for a first try."""
    text = {
        **SCRATCH.config["text_config"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    vision = {**SCRATCH.config["vision_config"], "hidden_size": 64, "embed_dim": 64}
    first, second = recipe.stages
    # the same losses, data sets and rates: only sizes and numbers of steps are smaller
    return replace(
        recipe,
        name="digits-tiny",
        scratch=replace(SCRATCH, config={"text_config": text, "vision_config": vision}),
        dim=64,
        stages=(
            replace(first, steps=6, batch_size=32, sub_batch=16),
            replace(second, steps=10, batch_size=32, sub_batch=16),
        ),
        save_every=4,
    )
