"""Compares the layers that an adapter holds with those that its settings name.

PEFT only warns about missing or unknown weights, and would then merge a different model. Patterns
refer to the names of the model that the adapter was trained on, so they are tried on every kind of
names.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lame_runtime.errors import BundleError, shown
from torch import nn

from lame_training.model.from_disk.limited_process import run_limited
from lame_training.model.from_disk.merging import match_patterns
from lame_training.model.from_disk.merging.adapter_names import (
    before_renaming,
    by_trained_name,
    kinds_of,
    with_head,
)
from lame_training.model.from_disk.merging.adapter_settings import CONFIG, AdapterSettings
from lame_training.model.from_disk.merging.adapter_weights import AdapterWeights

ADAPTABLE = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ALL_LINEAR = "all-linear"


@dataclasses.dataclass(frozen=True)
class Scale:
    """Rank and alpha of one layer."""

    rank: int
    alpha: float


def scales(
    model: nn.Module, settings: AdapterSettings, weights: AdapterWeights, folder: Path
) -> dict[str, Scale]:
    """Returns rank and alpha of each adapted layer, by its name in our model.

    Raises:
        BundleError: a pattern is not a regular expression or takes too long, a rank is not the one
            of the weights, or the adapter lacks a layer, or holds one that the settings do not
            name.
    """
    path = folder / CONFIG
    kinds = kinds_of(weights.trained)
    candidates = [name for name, layer in model.named_modules() if isinstance(layer, ADAPTABLE)]
    groups = [by_trained_name(candidates, kind) for kind in kinds]
    as_parameters = [_with_targeted_weight(group, settings.target_parameters) for group in groups]
    all_linear = str(settings.target_modules).lower() == ALL_LINEAR
    # PEFT renames older keys, and then reads patterns anew
    renamed = before_renaming in kinds and with_head in kinds
    # PEFT compares patterns with the name of what it adapts: a layer, or a parameter of one
    adapted = {
        name: [
            f"{trained}.weight" if name in set().union(*as_parameters) else trained
            for trained in (layer.trained_name, *([with_head(name)] if renamed else []))
        ]
        for name, layer in weights.layers.items()
    }
    question = {
        "settings": {
            **dataclasses.asdict(settings),
            "target_modules": ".*" if all_linear else settings.target_modules or [],
            "rank_pattern": list(settings.rank_pattern),
            "alpha_pattern": list(settings.alpha_pattern),
        },
        "groups": [list(group) for group in groups],
        "adapted": list(adapted.values()),
    }
    try:
        answer = run_limited(Path(match_patterns.__file__), question)
    except ValueError as error:
        raise BundleError(f"{path}: its patterns cannot be matched: {shown(error)}") from None
    targeted = [
        {group[name] for name in names}
        for group, names in zip(groups, answer["targeted"], strict=True)
    ]
    if all_linear:
        linear = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        targeted = [names & linear for names in targeted]
    named = [names | others for names, others in zip(targeted, as_parameters, strict=True)]
    if settings.target_modules is None:
        # null means PEFT's defaults of a model, so that any layer may be one of them
        named = [names | set(adapted) for names in named]
    _compare(named, set(adapted), folder)
    result = {}
    for name, rank_key, alpha_key in zip(adapted, answer["rank"], answer["alpha"], strict=True):
        scale = Scale(
            settings.rank_pattern.get(rank_key, settings.r),
            settings.alpha_pattern.get(alpha_key, settings.lora_alpha),
        )
        rank = weights.layers[name].rank
        if rank != scale.rank:
            raise BundleError(
                f"{path}: r is {scale.rank} for {shown(name)}, but its weights have {rank}; "
                "copy the adapter again"
            )
        result[name] = scale
    return result


def _with_targeted_weight(group: dict[str, str], targets: list[str]) -> set[str]:
    """Returns the layers, of those by trained name, whose weight is adapted as a parameter."""
    exact, endings = set(targets), tuple(f".{target}" for target in targets)
    return {
        name
        for trained, name in group.items()
        if (key := f"{trained}.weight") in exact or key.endswith(endings)
    }


def _compare(targeted: list[set[str]], adapted: set[str], folder: Path) -> None:
    """Raises `BundleError` unless one kind of names gives exactly the adapted layers."""
    if adapted in targeted:
        return
    # the kind of names that explains most layers says best what is wrong
    names = min(targeted, key=lambda names: len(names ^ adapted))
    if missing := sorted(names - adapted):
        raise BundleError(
            f"{folder}: lacks the adapter weights of {shown(missing[0])} ({len(missing)} in all), "
            "which target_modules or target_parameters names; copy the adapter again"
        )
    surplus = sorted(adapted - names)
    raise BundleError(
        f"{folder}: holds adapter weights of {shown(surplus[0])} ({len(surplus)} in all), which "
        "target_modules does not name; check base_model_name_or_path"
    )
