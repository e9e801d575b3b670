"""What is compared: one recipe and its variations, each in one respect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lame_training import reasoning
from lame_training.data import DataSet
from lame_training.model import RecFrom
from lame_training.recipes import DIGITS, EVERY_PART, Recipe, contrastive, without_reason_tokens, without_reconstruction
from lame_training.stages import Stage

WIDTH = 64
RATE = 1.5e-3


TASKS = tuple(
    DataSet(task.name, "query" if task.finding else "positive", weight, task.text if task.finding else "")
    for task, weight in ((task, {2: 0.25, 4: 0.5, 6: 1.0}[task.length]) for task in reasoning.TASKS)
)


def _reference() -> Recipe:
    """K = 8, L_rec, two stages, on a backbone small enough for a trial to take four minutes on one core."""
    assert DIGITS.scratch is not None
    text, vision = DIGITS.scratch.config["text_config"], DIGITS.scratch.config["vision_config"]
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    small = {
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
    decoder = {**heads, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1, "head_dim": 32}
    rates = dict.fromkeys(EVERY_PART, RATE)
    warm = {part: rate for part, rate in rates.items() if part not in ("embed", "head")}
    return replace(
        DIGITS,
        name="reasoning",
        scratch=replace(DIGITS.scratch, config=small),
        decoder={**(DIGITS.decoder or {}), **decoder},
        n_reason=8,
        dim=WIDTH,
        pooling="concat",
        stages=(
            Stage("bottleneck warm-up", 1200, 64, 32, warm, 0.0, 1.0, TASKS),
            Stage("joint optimisation", 1300, 64, 32, rates, 1.0, 1.0, TASKS),
        ),
        chunk=256,
        picture_cache_mib=4096,
    )


REFERENCE = _reference()


@dataclass(frozen=True)
class Arm:
    """One variation of the reference."""

    name: str
    says: str
    change: Callable[[Recipe], Recipe] = lambda recipe: recipe
    equal_steps: bool = True
    """Whether it is trained for the reference's steps as well as for its time."""
    probed: bool = False
    """Whether its reason tokens are dropped and swapped at test time."""

    def recipe(self, seed: int, joint_steps: int | None = None) -> Recipe:
        """The arm's run; its last stage `joint_steps` long, or as long as the reference's."""
        changed = self.change(replace(REFERENCE, seed=seed))
        *before, joint = changed.stages
        return replace(changed, name=self.name, stages=(*before, replace(joint, steps=joint.steps if joint_steps is None else joint_steps)))


def _in_one_stage(recipe: Recipe) -> Recipe:
    return replace(recipe, stages=recipe.stages[1:])


def _reason_tokens(count: int) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, n_reason=count)


def _plain_at(rate: float) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        made = without_reason_tokens(recipe)
        return replace(made, stages=tuple(replace(stage, rates=dict.fromkeys(stage.rates, rate)) for stage in made.stages))

    return change


def _scheduled(rec_weight: float, rec_until: float) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        *before, joint = recipe.stages
        return replace(recipe, stages=(*before, replace(joint, rec_weight=rec_weight, rec_until=rec_until)))

    return change


def _warmed_for(steps: int) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        warm, joint = recipe.stages
        return replace(recipe, stages=(replace(warm, steps=steps), joint))

    return change


def _late_rec(recipe: Recipe) -> Recipe:
    warm, joint = recipe.stages
    return replace(recipe, stages=(*contrastive((replace(warm, rates=joint.rates),)), joint))


def _reading(rec_from: RecFrom, n_reason: int = 8) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        warm, joint = recipe.stages
        stages = (replace(warm, rates={**warm.rates, "embed": RATE}), joint)  # the warm-up trains the rows that L_rec reads
        return replace(recipe, rec_from=rec_from, n_reason=n_reason, stages=stages)

    return change


ARMS = (
    Arm(
        "k8",
        "the reference: K = 8, L_rec from the reason tokens in two stages, a head over all latent states",
        equal_steps=False,
        probed=True,
    ),
    Arm("k0", "plain embedder: no reason tokens, no decoder, L_nce", without_reason_tokens),
    Arm("k8-no-rec", "without L_rec: L_nce in both stages", without_reconstruction, probed=True),
    Arm("k0-rec", "no reason tokens; L_rec from [EMBED]", lambda r: replace(_reading("embed", 0)(r), pooling="embed")),
    Arm("k8-embed", "the head reads [EMBED] alone", lambda r: replace(r, pooling="embed"), probed=True),
    Arm("k4", "K = 4", _reason_tokens(4), probed=True),
    Arm("k16", "K = 16", _reason_tokens(16)),
    Arm("k2", "K = 2", _reason_tokens(2)),
    Arm("k1", "K = 1", _reason_tokens(1)),
    Arm("no-stage-1", "without stage 1", _in_one_stage),
    Arm("short-stage-1", "stage 1 of 400 steps", _warmed_for(400)),
    Arm("late-rec", "L_nce alone in stage 1, L_rec joins in stage 2", _late_rec),
    Arm("lambda-until-40", "λ = 5 for 40 % of stage 2, then 0", _scheduled(5.0, 0.4)),
    Arm("lambda-until-0", "λ = 0 in stage 2", _scheduled(1.0, 0.0)),
    Arm("rec-both", "L_rec from the reason tokens and [EMBED]", _reading("both")),
    Arm("rec-embed", "L_rec from [EMBED]", _reading("embed")),
    Arm("attends-reason", "[EMBED] attends to the reason tokens alone", lambda r: replace(r, embed_attends="reason")),
    Arm(
        "k0-no-stage-1",
        "plain embedder, all tasks from the first step",
        lambda r: _in_one_stage(without_reason_tokens(r)),
        equal_steps=False,
    ),
    Arm("k0-slow", "plain embedder at 2/3 of the rate", _plain_at(RATE / 1.5), equal_steps=False),
    Arm("k0-fast", "plain embedder at 4/3 of the rate", _plain_at(RATE * 4 / 3), equal_steps=False),
)
