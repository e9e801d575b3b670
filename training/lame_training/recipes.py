"""Recipes: everything a training run is determined by, apart from the data's bytes and the seed's luck."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lame_runtime.contract.rules import ImageRules, PromptLayout
from lame_runtime.errors import InputError

from lame_training import digits
from lame_training.data import DataSet
from lame_training.stages import Stage


@dataclass(frozen=True)
class Recipe:
    """A whole training run as values. `backbone` and `decoder` are the keyword arguments of their Hugging Face configs."""

    name: str
    backbone: dict[str, Any]
    decoder: dict[str, Any] | None
    n_reason: int
    dim: int
    vocab_size: int
    prompt: PromptLayout
    images: ImageRules
    max_length: int
    stages: tuple[Stage, ...]
    temperature: float = 0.05
    false_negative_margin: float | None = 0.1
    chunk: int = 128
    """Inputs per forward pass; a step's inputs are sorted by length and cut into chunks."""
    clip_norm: float = 1.0
    picture_cache_mib: int = 256
    """Prepared inputs kept in memory between steps."""
    save_every: int = 100
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


def _asked(name: str, instruction: str) -> DataSet:
    return DataSet(name, "positive", 1.0, instruction)


DIGIT = _asked("digit", digits.CLASSIFY)
QUESTIONS = tuple(_asked(question.name, "") for question in digits.QUESTIONS)
FIND = tuple(DataSet(f"find{count}", "query", 1.0, digits.FIND_PICTURE) for count in (2, 3))
SAME = (DataSet("same2", "none"),)


def _weighted(begins: float = 0.0, **weights: float) -> tuple[DataSet, ...]:
    known = {task.name: task for task in (DIGIT, *QUESTIONS, *FIND, *SAME)}
    return tuple(replace(known[name], weight=weight, begins=begins) for name, weight in weights.items())


EVERY_PART = ("vision", "merger", "language_model", "reason", "embed", "head", "connector", "decoder")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""The normalisation Qwen2-VL took over from CLIP."""

DIGITS = Recipe(
    name="digits",
    backbone={
        "text_config": {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.08,  # 0.02 is for wide models; at width 128 it starts on a plateau
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        "vision_config": {
            "depth": 2,
            "embed_dim": 64,
            "num_heads": 2,
            "mlp_ratio": 4,
            "hidden_size": 128,
            "patch_size": 14,
            "initializer_range": 0.08,
        },
    },
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
    n_reason=8,
    dim=128,
    vocab_size=512,
    prompt=PromptLayout(prefix="<|im_start|>", suffix="<|im_end|>", separator="\n", roles={"query": "", "document": ""}),
    images=ImageRules(
        patch_size=14, temporal_patch_size=2, merge_size=2, min_pixels=28 * 28, max_pixels=28 * 28 * 16, mean=CLIP_MEAN, std=CLIP_STD
    ),
    max_length=512,
    stages=(
        # From scratch there is no pretrained tower to freeze, so both stages train every part that the loss reaches.
        Stage(
            "bottleneck warm-up",
            steps=100,
            batch_size=64,
            sub_batch=32,
            rates=dict.fromkeys((part for part in EVERY_PART if part not in ("embed", "head")), 1.5e-3),
            nce_weight=0.0,
            rec_weight=1.0,
            tasks=_weighted(digit=1),
        ),
        Stage(
            "joint optimisation",
            steps=580,
            batch_size=128,
            sub_batch=64,
            rates=dict.fromkeys(EVERY_PART, 1e-3),
            nce_weight=1.0,
            rec_weight=1.0,
            tasks=(
                *_weighted(digit=1.5, sum2=2, find2=2),
                *_weighted(0.65, sum3=1, find3=1, largest=0.3, evens=0.3, second=0.3, ascending=0.3, same2=0.5),
            ),
        ),
    ),
)


def without_reason_tokens(recipe: Recipe) -> Recipe:
    """The K = 0 arm: a plain embedder, trained on the same rows with L_nce in both stages."""
    return replace(recipe, name=f"{recipe.name}-k0", n_reason=0, decoder=None, stages=_contrastive(recipe.stages))


def without_reconstruction(recipe: Recipe) -> Recipe:
    """The arm without L_rec: the same reason tokens, L_nce alone in both stages."""
    return replace(recipe, name=f"{recipe.name}-no-rec", decoder=None, stages=_contrastive(recipe.stages))


def _contrastive(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    rate = max(stages[-1].rates.values())
    return tuple(replace(stage, nce_weight=1.0, rec_weight=0.0, rates=dict.fromkeys(EVERY_PART, rate)) for stage in stages)


def _tiny(recipe: Recipe) -> Recipe:
    """The digits recipe cut to a few seconds: for tests and for trying the pipeline out."""
    first, second = recipe.stages
    shape = {
        **recipe.backbone["text_config"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return replace(
        recipe,
        name="digits-tiny",
        backbone={"text_config": shape, "vision_config": {**recipe.backbone["vision_config"], "hidden_size": 64, "embed_dim": 64}},
        dim=64,
        stages=(replace(first, steps=6, batch_size=32, sub_batch=16), replace(second, steps=10, batch_size=32, sub_batch=16)),
        save_every=4,
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (DIGITS, without_reason_tokens(DIGITS), without_reconstruction(DIGITS), _tiny(DIGITS))
}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`; raises `InputError` naming those there are."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: there are {', '.join(RECIPES)}")
    return RECIPES[name]
