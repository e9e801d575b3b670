"""Checks that an adapter holds the parts, other than low-rank factors, that its settings name.

These are modules that are saved as a whole, new rows of embedding tables, and biases. PEFT only
warns about missing weights, and would then merge a different model. `adapter_targets` does the same
for the layers with factors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.errors import BundleError, shown
from torch import nn

from lame_training.model.from_disk.merging.adapter_names import TEXT, by_trained_name, kinds_of
from lame_training.model.from_disk.merging.adapter_settings import AdapterSettings
from lame_training.model.from_disk.merging.adapter_weights import AdapterWeights

TABLE = f"{TEXT}embed_tokens"
"""The embedding table that a list of tokens is for if the settings name no table."""


def check_parts(
    model: nn.Module, settings: AdapterSettings, weights: AdapterWeights, folder: Path
) -> None:
    """Raises `BundleError` for the first setting that names a weight that the file lacks.

    Settings may name parts of a head, which our model does not have; they are not looked for.
    """
    kinds = kinds_of(weights.trained)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())

    def require(setting: str, named: list[set[str]], held: Iterable[str]) -> None:
        # of the kinds of names that mean something, one has to be complete
        lacking = [names - set(held) for names in named if names]
        if not lacking or not all(lacking):
            return
        fewest = min(lacking, key=len)
        raise BundleError(
            f"{folder}: lacks the weight {shown(min(fewest))} ({len(fewest)} in all), which its "
            f"setting {setting} names; copy the adapter again"
        )

    saved = [
        _inside(parameters, _ending_with(settings.modules_to_save, by_trained_name(modules, kind)))
        for kind in kinds
    ]
    require("modules_to_save", saved, weights.whole)
    tables = [name for name, module in modules.items() if isinstance(module, nn.Embedding)]
    tokens = settings.tokens
    if isinstance(tokens, dict):
        keys = [key for key, ids in tokens.items() if ids]
        rows = [set(_ending_with(keys, by_trained_name(tables, kind))) for kind in kinds]
    else:
        rows = [{TABLE} & set(tables) if tokens else set()]
    require("trainable_token_indices", rows, weights.token_rows)
    if settings.bias == "all":
        biases = [
            {name for name in by_trained_name(parameters, kind).values() if name.endswith(".bias")}
            for kind in kinds
        ]
        require("bias", biases, weights.whole)
    elif settings.bias == "lora_only":
        adapted = {f"{name}.bias" for name in weights.layers}
        require("bias", [adapted & set(parameters)], weights.whole)


def _ending_with(endings: Iterable[str], names: dict[str, str]) -> list[str]:
    """Returns our names of those whose trained name has one of the endings, as PEFT compares."""
    # the ending need not follow a dot: with PEFT, `norm` names every `input_layernorm` as well
    return [own for trained, own in names.items() if trained.endswith(tuple(endings))]


def _inside(parameters: Iterable[str], modules: Iterable[str]) -> set[str]:
    """Returns the parameters of modules and of everything in them."""
    prefixes = tuple(f"{name}." for name in modules)
    return {name for name in parameters if name.startswith(prefixes)}
