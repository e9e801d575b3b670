"""The recipes by name, and the data sets that a mixture or a data root puts into them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lame_runtime.errors import UsageError, shown

from lame_training.data import data_sets
from lame_training.recipes.digits_recipes import (
    DIGITS,
    tiny,
    without_reason_tokens,
    without_reconstruction,
)
from lame_training.recipes.published import PUBLISHED, with_lora
from lame_training.recipes.recipe import Recipe

# The command line's help lists the same names without importing this module.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        DIGITS,
        without_reason_tokens(DIGITS),
        without_reconstruction(DIGITS),
        tiny(DIGITS),
        *PUBLISHED,
        *(with_lora(recipe) for recipe in PUBLISHED),
    )
}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe called `name`.

    `digits`, `digits-k0`, `digits-no-rec` and `digits-tiny` train from random weights. The paper's
    configurations are `lame-qwen2-vl-2b`, `lame-qwen2.5-vl-3b`, `lame-qwen2-vl-7b` and
    `lame-qwen3-vl-8b`, each also with `-lora` at its end.

    Args:
        name: name of a recipe that ships with the package.

    Returns:
        The recipe; `dataclasses.replace` makes a variant of it.

    Raises:
        UsageError: there is no recipe of this name; the message lists the names.

    Example:
        >>> from lame_training import find_recipe
        >>> find_recipe("digits").n_reason
        4
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise UsageError(f"unknown recipe {shown(repr(name))}: there are {', '.join(RECIPES)}")
    return RECIPES[name]


def with_tasks(
    recipe: Recipe, data: Path, mixture: Path | None = None, *, allow_outside: bool = False
) -> Recipe:
    """Returns the recipe with data sets in every stage.

    A mixture replaces the data sets of all stages. Without one, only the stages that name no data
    set get those that `data` holds.

    Args:
        recipe: the recipe.
        data: root of the training data.
        mixture: a YAML file that lists data sets; see `lame_training.data.mixture`.
        allow_outside: whether paths and links may lead out of `data`.

    Raises:
        InputError: the mixture or the data cannot be read.
        UsageError: a stage has no data set that its first step could draw from.
    """
    if not all(stage.tasks for stage in recipe.stages) or mixture is not None:
        tasks = data_sets(data, mixture, allow_outside=allow_outside)
        stages = tuple(
            stage if stage.tasks and mixture is None else replace(stage, tasks=tasks)
            for stage in recipe.stages
        )
        recipe = replace(recipe, stages=stages)
    # at step 0 only: later steps draw from more data sets, never from fewer
    for stage in recipe.stages:
        if not stage.drawn(0):
            reason = "joins in later (begins)"
            if stage.nce_weight <= 0:
                reason += " or decodes no text (target_side: none)"
            raise UsageError(
                f"stage {stage.name!r} has no data set to begin with: each {reason}; "
                "add one to the mixture"
            )
    return recipe
