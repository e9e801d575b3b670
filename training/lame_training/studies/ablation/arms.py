"""The reference recipe of the ablation and its arms: variations of it in one respect each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lame_training.data import DataSet
from lame_training.model.lame import RecFrom
from lame_training.recipes.digits_recipes import (
    DIGITS,
    EVERY_PART,
    contrastive,
    without_reason_tokens,
    without_reconstruction,
)
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.stages import Stage
from lame_training.studies import digit_rows

WIDTH = 64
"""Width of backbone, decoder and embedding."""
RATE = 1.5e-3
"""Peak learning rate of every part."""
WEIGHTS = {2: 0.25, 4: 0.5, 6: 1.0}
"""Weights of data sets by the length of their rows: most samples go to the hardest."""

DATA_SETS = tuple(
    DataSet(
        task.name,
        # the side with the text, which the picture's reason tokens decode
        "query" if task.finding else "positive",
        WEIGHTS[task.length],
        task.text if task.finding else "",
    )
    for task in digit_rows.TASKS
)


def _reference() -> Recipe:
    """Returns the reference: K = 8, L_rec, two stages.

    The backbone is small enough for a trial to take four minutes on one core.
    """
    # for the type checker: the digits are trained from random weights
    assert DIGITS.scratch is not None
    text, vision = DIGITS.scratch.config["text_config"], DIGITS.scratch.config["vision_config"]
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    backbone = {
        "text_config": {
            **text,
            **heads,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "initializer_range": 0.11,
        },
        "vision_config": {**vision, "depth": 1, "hidden_size": WIDTH},
    }
    decoder = {
        **heads,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 1,
        "head_dim": 32,
    }
    rates = dict.fromkeys(EVERY_PART, RATE)
    # L_rec from the reason tokens moves neither [EMBED] nor the head
    warm_up_rates = {part: rate for part, rate in rates.items() if part not in ("embed", "head")}
    return replace(
        DIGITS,
        # replaced by the arm's name in `Arm.recipe`
        name="reasoning",
        scratch=replace(DIGITS.scratch, config=backbone),
        decoder={**(DIGITS.decoder or {}), **decoder},
        n_reason=8,
        dim=WIDTH,
        pooling="concat",
        stages=(
            Stage("bottleneck warm-up", 1200, 64, 32, warm_up_rates, 0.0, 1.0, DATA_SETS),
            Stage("joint optimization", 1300, 64, 32, rates, 1.0, 1.0, DATA_SETS),
        ),
        chunk=256,
        # room for all pictures, which the trials of a process share
        picture_cache_mib=4096,
    )


REFERENCE = _reference()


@dataclass(frozen=True)
class Arm:
    """One variation of the reference."""

    name: str
    description: str
    """One line about the arm, for the report."""
    change: Callable[[Recipe], Recipe] = lambda recipe: recipe
    equal_steps: bool = True
    """Whether it is also trained for the reference's number of steps, besides its time."""
    probed: bool = False
    """Whether its reason tokens are dropped and swapped at test time."""

    def recipe(self, seed: int, joint_steps: int | None = None) -> Recipe:
        """Returns the recipe of a trial.

        Args:
            seed: the trial's seed.
            joint_steps: steps of the last stage; None takes the reference's.
        """
        # `REFERENCE` is looked up now, not bound above: tests replace it by a shorter one
        changed = self.change(replace(REFERENCE, seed=seed))
        # arms without stage 1 have one stage
        *earlier, joint = changed.stages
        if joint_steps is not None:
            joint = replace(joint, steps=joint_steps)
        return replace(changed, name=self.name, stages=(*earlier, joint))


def _in_one_stage(recipe: Recipe) -> Recipe:
    """Leaves stage 1 out."""
    return replace(recipe, stages=recipe.stages[1:])


def _reason_tokens(count: int) -> Callable[[Recipe], Recipe]:
    """Returns a change that sets K."""
    return lambda recipe: replace(recipe, n_reason=count)


def _plain_at(rate: float) -> Callable[[Recipe], Recipe]:
    """Returns a change to a plain embedder with another learning rate."""

    def change(recipe: Recipe) -> Recipe:
        plain = without_reason_tokens(recipe)
        stages = tuple(
            replace(stage, rates=dict.fromkeys(stage.rates, rate)) for stage in plain.stages
        )
        return replace(plain, stages=stages)

    return change


def _scheduled(rec_weight: float, rec_until: float) -> Callable[[Recipe], Recipe]:
    """Returns a change of λ in stage 2, and of the share of the stage in which L_rec counts."""

    def change(recipe: Recipe) -> Recipe:
        *earlier, joint = recipe.stages
        joint = replace(joint, rec_weight=rec_weight, rec_until=rec_until)
        return replace(recipe, stages=(*earlier, joint))

    return change


def _warmed_up_for(steps: int) -> Callable[[Recipe], Recipe]:
    """Returns a change of the steps of stage 1."""

    def change(recipe: Recipe) -> Recipe:
        warm_up, joint = recipe.stages
        return replace(recipe, stages=(replace(warm_up, steps=steps), joint))

    return change


def _late_rec(recipe: Recipe) -> Recipe:
    """Trains stage 1 with L_nce alone."""
    warm_up, joint = recipe.stages
    # with the rates of stage 2, because L_nce needs [EMBED] and the head
    first = contrastive((replace(warm_up, rates=joint.rates),))
    return replace(recipe, stages=(*first, joint))


def _reading(rec_from: RecFrom, n_reason: int = 8) -> Callable[[Recipe], Recipe]:
    """Returns a change of the states that the latent decoder reads, and of K."""

    def change(recipe: Recipe) -> Recipe:
        warm_up, joint = recipe.stages
        # the warm-up trains the rows that L_rec reads, here [EMBED] as well
        warm_up = replace(warm_up, rates={**warm_up.rates, "embed": RATE})
        return replace(recipe, rec_from=rec_from, n_reason=n_reason, stages=(warm_up, joint))

    return change


# The reference comes first: the calibration and the plan of the trials rely on it.
ARMS = (
    Arm(
        "k8",
        "the reference: K = 8, L_rec from the reason tokens in two stages, "
        "a head over all latent states",
        equal_steps=False,
        probed=True,
    ),
    Arm("k0", "plain embedder: no reason tokens, no decoder, L_nce", without_reason_tokens),
    Arm("k8-no-rec", "without L_rec: L_nce in both stages", without_reconstruction, probed=True),
    Arm(
        "k0-rec",
        "no reason tokens; L_rec from [EMBED]",
        lambda recipe: replace(_reading("embed", 0)(recipe), pooling="embed"),
    ),
    Arm(
        "k8-embed",
        "the head reads [EMBED] alone",
        lambda recipe: replace(recipe, pooling="embed"),
        probed=True,
    ),
    Arm("k4", "K = 4", _reason_tokens(4), probed=True),
    Arm("k16", "K = 16", _reason_tokens(16)),
    Arm("k2", "K = 2", _reason_tokens(2)),
    Arm("k1", "K = 1", _reason_tokens(1)),
    Arm("no-stage-1", "without stage 1", _in_one_stage),
    Arm("short-stage-1", "stage 1 of 400 steps", _warmed_up_for(400)),
    Arm("late-rec", "L_nce alone in stage 1, L_rec joins in stage 2", _late_rec),
    Arm("lambda-until-40", "λ = 5 for 40 % of stage 2, then 0", _scheduled(5.0, 0.4)),
    Arm("lambda-until-0", "λ = 0 in stage 2", _scheduled(1.0, 0.0)),
    Arm("rec-both", "L_rec from the reason tokens and [EMBED]", _reading("both")),
    Arm("rec-embed", "L_rec from [EMBED]", _reading("embed")),
    Arm(
        "attends-reason",
        "[EMBED] attends to the reason tokens alone",
        lambda recipe: replace(recipe, embed_attends="reason"),
    ),
    # Controls of the plain embedder, at equal time only: is it at a disadvantage by its schedule or
    # its learning rate?
    Arm(
        "k0-no-stage-1",
        "plain embedder, all tasks from the first step",
        lambda recipe: _in_one_stage(without_reason_tokens(recipe)),
        equal_steps=False,
    ),
    Arm("k0-slow", "plain embedder at 2/3 of the rate", _plain_at(RATE / 1.5), equal_steps=False),
    Arm("k0-fast", "plain embedder at 4/3 of the rate", _plain_at(RATE * 4 / 3), equal_steps=False),
)
