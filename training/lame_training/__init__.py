"""LaME training: from rows of pictures and texts to a checkpoint, and from a checkpoint to scores.

    import lame_training

    lame_training.train("digits", None, "runs/digits")           # writes the digits data set, too
    with lame_training.load_checkpoint("runs/digits") as encoder:
        vectors = encoder.encode_query(["digits that add up to fifteen"])
    evaluation = lame_training.evaluate("runs/digits", "digits", "runs/digits/data")
    print(evaluation.scores)

Importing the package does not import PyTorch: the public names are loaded when they are first used.

    api.py        the public functions: train, load_checkpoint, evaluate
    recipes/      the values that determine a run, and the recipes by name
    data/         rows of published and own data sets, as batches
    contract_from/  the contract of a backbone, and tokenizers
    model/        the model, its checkpoints, and PyTorch as a backend of the runtime
    objective/    losses, in-batch negatives, GradCache
    distributed/  the processes of a run
    run/          a run from beginning to end
    evaluation/   benchmarks
    studies/      experiments about the method
    fixtures/     small data sets and backbones for tests and first tries
    commands/     the commands of `lame-train`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lame_training.api import evaluate, load_checkpoint, train
    from lame_training.recipes.catalog import find_recipe
    from lame_training.recipes.recipe import Recipe

__all__ = ["Recipe", "evaluate", "find_recipe", "load_checkpoint", "train"]
__version__ = "0.1.0"

_MODULES = {
    "Recipe": "lame_training.recipes.recipe",
    "evaluate": "lame_training.api",
    "find_recipe": "lame_training.recipes.catalog",
    "load_checkpoint": "lame_training.api",
    "train": "lame_training.api",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562): PyTorch takes seconds to import."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    # from now on the name is found without this function
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, whether they have been imported or not."""
    return sorted([*globals(), *__all__])
