"""Merges a PEFT adapter into the weights of its base model.

PEFT computes the merge, with settings that are made here of values that were checked: the exact
names of layers, their ranks and their alphas. It reads no file.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lame_runtime.errors import BundleError, first_line, shown
from torch import nn

from lame_training.model.from_disk.merging.adapter_parts import check_parts
from lame_training.model.from_disk.merging.adapter_settings import AdapterSettings, read_settings
from lame_training.model.from_disk.merging.adapter_targets import Scale, scales
from lame_training.model.from_disk.merging.adapter_weights import (
    ADAPTER,
    FACTORS,
    WEIGHTS,
    AdapterWeights,
    read_weights,
)
from lame_training.model.from_disk.tensors import check_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge_adapter(model: PreTrainedModel, folder: Path, *, widen: bool = False) -> PreTrainedModel:
    """Adds the change that a PEFT adapter makes to the weights of `model`.

    The adapter may have been trained on the class with a language-model head, whose own adapter is
    left out; see `adapter_weights` for the names that are known.

    Args:
        model: the base model; it is changed in place.
        folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them.
        widen: convert the adapted layers to FP32 before adding, and leave them in FP32. BF16 has 8
            bits of precision, so a change of less than 1/256 of a weight would be rounded away.

    Returns:
        The model without adapters; it has the parameters it had before.

    Raises:
        BundleError: the adapter is pickled, unreadable, incomplete, made for another model, or of a
            type that is not merged here.
    """
    settings = read_settings(folder)
    weights = read_weights(model, folder)
    if not (weights.layers or weights.whole or weights.token_rows):
        raise BundleError(f"{folder / WEIGHTS}: holds no weights of this model; copy it again")
    layer_scales = scales(model, settings, weights, folder)
    check_parts(model, settings, weights, folder)
    replaced = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.whole.items():
            if widen:
                replaced[name].data = replaced[name].data.float()
            replaced[name].copy_(value)
        for name, rows in weights.token_rows.items():
            _replace_rows(model, name, rows, settings, folder, widen=widen)
    if layer_scales:
        try:
            _add_layers(model, settings, weights, layer_scales, widen=widen)
        except Exception as error:  # PEFT passes on what torch and its own checks raise
            raise BundleError(
                f"{folder}: the adapter cannot be merged ({shown(first_line(error))}); "
                "copy the adapter again, or check base_model_name_or_path"
            ) from None
        # a sum of finite numbers may be beyond the range of FP16
        changed = {f"{name}.weight" for name in layer_scales}
        check_finite(
            {name: value for name, value in model.named_parameters() if name in changed},
            f"{folder}: merged into its base",
        )
    return model


def _add_layers(
    model: PreTrainedModel,
    settings: AdapterSettings,
    weights: AdapterWeights,
    layer_scales: dict[str, Scale],
    *,
    widen: bool,
) -> None:
    """Lets PEFT add the low-rank changes to the layers' weights, in place."""
    from peft import LoraConfig, get_peft_model

    before = {name for name, _ in model.named_parameters()}
    names = list(weights.layers)
    # PEFT has layers for linear maps, convolutions and tables; a table with factors of a linear map
    # was adapted as a parameter
    parameters = [
        f"{name}.weight"
        for name in names
        if isinstance(model.get_submodule(name), nn.Embedding)
        and "lora_A.weight" in weights.layers[name].factors
    ]
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        target_modules=[name for name in names if f"{name}.weight" not in parameters],
        target_parameters=parameters or None,
        # names without a pattern's signs, and only where PEFT would not take the default
        rank_pattern={
            re.escape(name): scale.rank
            for name, scale in layer_scales.items()
            if scale.rank != settings.r
        },
        alpha_pattern={
            re.escape(name): scale.alpha
            for name, scale in layer_scales.items()
            if scale.alpha != settings.lora_alpha
        },
        lora_bias=settings.lora_bias,
        init_lora_weights=settings.init_lora_weights,
        inference_mode=True,
    )
    # what PEFT draws to initialize factors must not change what is drawn later from the seed
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # PEFT warns about tied tables, and transformers about names of its own that PEFT still uses
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
        for name, layer in weights.layers.items():
            _fill(model.get_submodule(name), name, layer.factors)
        if widen:
            for module in model.modules():
                if isinstance(base := getattr(module, "base_layer", None), nn.Module):
                    base.float()
        # not PEFT's `safe_merge`, which rounds the change of a half-precision weight before adding
        merged = adapted.merge_and_unload()
    if {name for name, _ in merged.named_parameters()} != before:
        raise ValueError("it changes more than weights")


def _fill(module: nn.Module, name: str, factors: dict[str, Any]) -> None:
    """Copies the factors of one layer into PEFT's module; raises `ValueError` if they do not fit.

    The module must hold no other factor of its own.
    """
    own = {key: value for key, value in module.named_parameters() if key.startswith("lora_")}
    given = {FACTORS[key].format(ADAPTER): value for key, value in factors.items()}
    if missing := sorted(set(own) - set(given)):
        raise ValueError(f"missing weight {missing[0]} of {name}")
    for key, value in given.items():
        if key not in own or own[key].shape != value.shape:
            raise ValueError(f"{key} of {name} has the shape {tuple(value.shape)}")
        with torch.no_grad():
            own[key].copy_(value)


def _replace_rows(
    model: nn.Module,
    name: str,
    rows: torch.Tensor,
    settings: AdapterSettings,
    folder: Path,
    *,
    widen: bool,
) -> None:
    """Replaces the rows of an embedding table that the settings name; raises `BundleError`."""
    tokens = settings.tokens
    if isinstance(tokens, dict):
        endings = [key for key in tokens if f".{name}".endswith(f".{key.split('.')[-1]}")]
        tokens = tokens[endings[0]] if len(endings) == 1 else []
    table = model.get_parameter(f"{name}.weight")
    if tuple(rows.shape) != (len(tokens), table.shape[1]):
        raise BundleError(
            f"{folder}: holds {tuple(rows.shape)} new rows of {name}, but its settings name "
            f"{len(tokens)} tokens; copy the adapter again"
        )
    if tokens and max(tokens) >= len(table):
        raise BundleError(
            f"{folder}: trains the token {max(tokens)}, and the vocabulary of its base has "
            f"{len(table):,}; check base_model_name_or_path"
        )
    if widen:
        table.data = table.data.float()
    table[tokens] = rows.to(table.dtype)
