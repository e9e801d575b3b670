"""`Recipe`: the values that determine a training run, apart from the data itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lame_runtime.arguments import integer, number
from lame_runtime.contract.rules import ImageRules, PromptLayout
from lame_runtime.errors import UsageError

from lame_training.arguments import whole_numbers
from lame_training.contract_from.budget import Budget
from lame_training.model.adapters import LoRA
from lame_training.model.lame import EmbedAttends, Pooling, RecFrom
from lame_training.recipes.stages import Stage

SMALLEST = 1e-9
"""Smallest value of a number that must be above 0."""
_WHOLE_NUMBERS = {
    **{"n_reason": 0, "dim": 1, "chunk": 1, "picture_cache_mib": 0},
    # NumPy's seed sequences, which order the rows, take no negative numbers
    **{"save_every": 1, "seed": 0},
}
"""Fields that are whole numbers, with their smallest values."""


@dataclass(frozen=True)
class Scratch:
    """A backbone that is trained from random weights.

    It holds the values that a backbone's folder would otherwise supply: config, tokenizer size,
    prompt and picture rules.

    Attributes:
        config: keyword arguments of `transformers.Qwen2VLConfig`.
        vocab_size: entries of the tokenizer, which is trained on the run's own texts.
        prompt: the prompt's layout.
        images: how pictures are resized, normalized and cut into patches.
    """

    config: dict[str, Any]
    vocab_size: int
    prompt: PromptLayout
    images: ImageRules


@dataclass(frozen=True)
class Recipe:
    """A training run as values: model, losses, stages, precision.

    A recipe is immutable; `dataclasses.replace` makes a variant of it. Two runs of one recipe start
    from the same weights and draw the same rows in the same order.

    Attributes:
        name: name in the catalog; stored in the checkpoint's `recipe.json`.
        scratch: the backbone to train from random weights. None if the recipe needs the folder of a
            pretrained backbone; a folder that is given takes the place of `scratch` in any case.
        decoder: keyword arguments of the latent decoder's `transformers.Qwen3Config`. The decoder
            starts from random weights unless a folder of one is given. None trains without L_rec.
        n_reason: K, the number of reason tokens; 0 makes a plain embedder.
        dim: P, the length of the vectors.
        budget: limits of one input: tokens, pixels, frames.
        stages: the stages, run one after the other.
        embed_attends: positions that [EMBED] attends to; see `lame_training.model.lame`.
        rec_from: states that the latent decoder reads; see `lame_training.model.lame`.
        pooling: states that the embedding head reads; see `lame_training.model.lame`.
        temperature: divisor of the cosines in InfoNCE.
        false_negative_margin: a candidate whose cosine exceeds the positive's by more than this is
            not counted as a negative; None counts every candidate.
        chunk: inputs per forward pass. A step's inputs are sorted by length and cut into chunks.
        gradcache: embed each chunk twice, so that memory does not grow with the batch; see
            `lame_training.objective.gradcache`.
        precision: type of the activations. Weights that a stage trains stay in FP32; weights that
            no stage trains are held in this type.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
        lora: adapters to train in the language model instead of its own weights; None for none.
        matryoshka: lengths of the vector's prefixes that L_nce is also computed on, each below
            `dim`. The mean over all lengths is minimized.
        clip_norm: largest norm of the gradient; longer gradients are scaled down to it.
        picture_cache_mib: MiB of prepared inputs that are kept in memory between steps.
        save_every: steps between the states that a run can be resumed from.
        seed: seed of initialization, of the order of rows, and of dropout.
        published_shape: family and size of the backbone that the recipe is made for, a key of
            `lame_training.model.published_shapes.SHAPES`. Other backbones may be given as well.
        from_paper: names of the values that arXiv 2606.13061 states; all others are ours.

    Raises:
        UsageError: a number is out of range, or a length in `matryoshka` is not between 1 and
            `dim` - 1.

    Example:
        >>> import dataclasses
        >>> from lame_training import find_recipe
        >>> recipe = dataclasses.replace(find_recipe("digits"), seed=1, matryoshka=(64, 32))
    """

    name: str
    scratch: Scratch | None
    decoder: dict[str, Any] | None
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
    gradcache: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    lora: LoRA | None = None
    matryoshka: tuple[int, ...] = ()
    clip_norm: float = 1.0
    picture_cache_mib: int = 256
    save_every: int = 100
    seed: int = 0
    published_shape: tuple[str, str] | None = None
    from_paper: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Python's own numbers: a recipe is recorded as JSON, which has none of NumPy's
        values: dict[str, Any] = {
            name: integer(name, getattr(self, name), least)
            for name, least in _WHOLE_NUMBERS.items()
        }
        values |= {
            name: number(name, getattr(self, name), SMALLEST)
            for name in ("temperature", "clip_norm")
        }
        if self.false_negative_margin is not None:
            margin = number("false_negative_margin", self.false_negative_margin, 0.0)
            values["false_negative_margin"] = margin
        values["matryoshka"] = whole_numbers("matryoshka", self.matryoshka, 1)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        # the whole vector is always trained, so its own length is no prefix
        for length in self.matryoshka:
            if not 0 < length < self.dim:
                raise UsageError(
                    f"`matryoshka` is {length}: use lengths from 1 to {self.dim - 1}; "
                    f"the vector has {self.dim} numbers"
                )

    @property
    def steps(self) -> int:
        """Number of steps of all stages together."""
        return sum(stage.steps for stage in self.stages)
