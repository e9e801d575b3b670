"""Recipes: everything a training run is determined by, apart from the data's bytes and the seed's luck."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lame_runtime.contract.rules import ImageRules, PromptLayout
from lame_runtime.errors import InputError

from lame_training import digits
from lame_training.adapters import LoRA
from lame_training.data import DataSet, data_sets
from lame_training.derive import CLIP_MEAN, CLIP_STD, Budget
from lame_training.model import EmbedAttends, Pooling, RecFrom
from lame_training.stages import Stage


@dataclass(frozen=True)
class Scratch:
    """A backbone trained from nothing: its size, and what a folder would say of tokenizer and processor."""

    config: dict[str, Any]
    """Keyword arguments of `Qwen2VLConfig`."""
    vocab_size: int
    prompt: PromptLayout
    images: ImageRules


@dataclass(frozen=True)
class Recipe:
    """A whole training run as values."""

    name: str
    scratch: Scratch | None
    """None where the recipe needs a backbone (--backbone), which replaces it in any case."""
    decoder: dict[str, Any] | None
    """Keyword arguments of the latent decoder's `Qwen3Config`, freshly initialised unless --decoder brings weights; None without L_rec."""
    n_reason: int
    dim: int
    budget: Budget
    stages: tuple[Stage, ...]
    embed_attends: EmbedAttends = "everything"
    rec_from: RecFrom = "reason"
    pooling: Pooling = "embed"
    temperature: float = 0.05
    false_negative_margin: float | None = 0.1
    chunk: int = 128
    """Inputs per forward pass; a step's inputs are sorted by length and cut into chunks."""
    gradcache: bool = False
    """Whether a step's chunks are embedded twice so that memory does not grow with the batch; see `gradient`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What activations are computed in; trained weights stay in FP32, weights that no stage trains are held in this type."""
    gradient_checkpointing: bool = False
    lora: LoRA | None = None
    """Adapters to train in the language model in place of its own weights."""
    matryoshka: tuple[int, ...] = ()
    """Prefixes of the embedding that L_nce is also computed on; the mean over all lengths is minimised."""
    clip_norm: float = 1.0
    picture_cache_mib: int = 256
    """Prepared inputs kept in memory between steps."""
    save_every: int = 100
    seed: int = 0
    published_shape: tuple[str, str] | None = None
    """Family and size of the backbone that the recipe is made for, in `shapes.SHAPES`; any other may be given."""
    from_paper: tuple[str, ...] = ()
    """What arXiv 2606.13061 says; every other value is ours."""

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

DIGITS = Recipe(
    name="digits",
    scratch=Scratch(
        config={
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
        vocab_size=512,
        prompt=PromptLayout(prefix="<|im_start|>", suffix="<|im_end|>", separator="\n", roles={"query": "", "document": ""}),
        images=ImageRules(
            patch_size=14, temporal_patch_size=2, merge_size=2, min_pixels=28 * 28, max_pixels=28 * 28 * 16, mean=CLIP_MEAN, std=CLIP_STD
        ),
    ),
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
    dim=128,
    budget=Budget(max_length=512, max_pixels=28 * 28 * 16, max_frames=16),
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
    pooling="concat",
)
"""K and the head that the ablation chose (LOG.md): four tokens, a head over all latent states."""


def without_reason_tokens(recipe: Recipe) -> Recipe:
    """The K = 0 arm: a plain embedder, trained on the same rows with L_nce in both stages."""
    return replace(recipe, name=f"{recipe.name}-k0", n_reason=0, decoder=None, pooling="embed", stages=contrastive(recipe.stages))


def without_reconstruction(recipe: Recipe) -> Recipe:
    """The arm without L_rec: the same reason tokens, L_nce alone in both stages."""
    return replace(recipe, name=f"{recipe.name}-no-rec", decoder=None, stages=contrastive(recipe.stages))


def contrastive(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The same stages with L_nce alone in each."""
    rate = max(stages[-1].rates.values())
    return tuple(replace(stage, nce_weight=1.0, rec_weight=0.0, rates=dict.fromkeys(EVERY_PART, rate)) for stage in stages)


def _tiny(recipe: Recipe) -> Recipe:
    """The digits recipe cut to a few seconds: for tests and for trying the pipeline out."""
    assert recipe.scratch is not None
    first, second = recipe.stages
    shape = {
        **recipe.scratch.config["text_config"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    vision = {**recipe.scratch.config["vision_config"], "hidden_size": 64, "embed_dim": 64}
    return replace(
        recipe,
        name="digits-tiny",
        scratch=replace(recipe.scratch, config={"text_config": shape, "vision_config": vision}),
        dim=64,
        stages=(replace(first, steps=6, batch_size=32, sub_batch=16), replace(second, steps=10, batch_size=32, sub_batch=16)),
        save_every=4,
    )


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
"""The shape of the latent decoder that the paper names for its 2B model."""


def _published(name: str, shape: tuple[str, str], dim: int, from_paper: tuple[str, ...], factor: int = 28) -> Recipe:
    """One of the paper's four configurations. Rates, schedule, batches, temperature, λ and budgets are ours (method.md).

    Args:
        name: of the recipe.
        shape: of the backbone.
        dim: the paper's "projection dim".
        from_paper: which values the paper says.
        factor: pixels along one side of a merged token.
    """
    warm = {"reason": 1e-3, "connector": 1e-4, "decoder": 2e-5}
    joint = {**warm, "language_model": 5e-5, "merger": 5e-5, "embed": 1e-3, "head": 1e-4}
    return Recipe(
        name=name,
        scratch=None,
        decoder=QWEN3_0_6B,
        n_reason=8,
        dim=dim,
        budget=Budget(max_length=8192, max_pixels=1280 * factor * factor, max_frames=64),
        stages=(
            Stage("bottleneck warm-up", 1000, 256, 16, warm, nce_weight=0.0, rec_weight=1.0, tasks=(), warmup=0.03),
            Stage("joint optimisation", 5000, 1024, 64, joint, nce_weight=1.0, rec_weight=1.0, tasks=(), warmup=0.03),
        ),
        temperature=0.02,
        chunk=8,
        gradcache=True,
        precision="bf16",
        gradient_checkpointing=True,
        published_shape=shape,
        from_paper=from_paper,
    )


PUBLISHED = (
    _published("lame-qwen2-vl-2b", ("qwen2_vl", "2b"), 3584, ("backbone", "n_reason", "decoder", "dim", "stages' order")),
    _published("lame-qwen2.5-vl-3b", ("qwen2_5_vl", "3b"), 2048, ("backbone", "dim", "stages' order")),
    _published("lame-qwen2-vl-7b", ("qwen2_vl", "7b"), 3584, ("backbone", "dim", "stages' order")),
    _published("lame-qwen3-vl-8b", ("qwen3_vl", "8b"), 4096, ("backbone", "dim", "stages' order"), factor=32),
)


def with_lora(recipe: Recipe) -> Recipe:
    """The recipe with adapters in the language model, as VLM2Vec-V2 trains."""
    return replace(recipe, name=f"{recipe.name}-lora", lora=LoRA())


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        DIGITS,
        without_reason_tokens(DIGITS),
        without_reconstruction(DIGITS),
        _tiny(DIGITS),
        *PUBLISHED,
        *(with_lora(recipe) for recipe in PUBLISHED),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`; raises `InputError` naming those there are."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: there are {', '.join(RECIPES)}")
    return RECIPES[name]


def with_tasks(recipe: Recipe, data: Path, mixture: Path | None = None) -> Recipe:
    """The recipe with the data sets of `mixture`, or else of `data`, in the stages that name none.

    Raises:
        InputError: unusable data or mixture, or a stage that has nothing to begin with.
    """
    if not all(stage.tasks for stage in recipe.stages) or mixture is not None:
        found = data_sets(data, mixture)
        stages = tuple(stage if stage.tasks and mixture is None else replace(stage, tasks=found) for stage in recipe.stages)
        recipe = replace(recipe, stages=stages)
    for stage in recipe.stages:
        if not stage.drawn(0):
            said = "joins in later (begins)" if stage.nce_weight > 0 else "joins in later (begins) or decodes no text (target_side: none)"
            raise InputError(f"stage {stage.name!r} has no data set to begin with: each {said}; add one to the mixture")
    return recipe
