"""Sorts the weights of an adapter by the layer of our model that they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lame_runtime.errors import BundleError, shown
from torch import Tensor, nn

from lame_training.model.from_disk.merging.adapter_names import our_name
from lame_training.model.from_disk.tensors import check_finite, read_tensors, what_instead

WEIGHTS = "adapter_model.safetensors"
HEAD = "lm_head"
"""The head, whose adapter an embedder does not need."""
ORIGINAL = ".original_module."
"""Part of the names of weights that a saved module replaces."""
PREFIXES = ("base_model.model.", "")
"""PEFT puts the first before the name of a weight; some trainers leave it out."""
FACTORS = {
    # as PEFT saves them → as PEFT's layers hold them
    "lora_A.weight": "lora_A.{}.weight",
    "lora_B.weight": "lora_B.{}.weight",
    "lora_B.bias": "lora_B.{}.bias",
    "lora_embedding_A": "lora_embedding_A.{}",
    "lora_embedding_B": "lora_embedding_B.{}",
    "lora_magnitude_vector": "lora_magnitude_vector.{}.weight",
    "lora_magnitude_vector.weight": "lora_magnitude_vector.{}.weight",
}
PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))
TOKENS = ("token_adapter.trainable_tokens_delta", "trainable_tokens_delta")
ADAPTER = "default"
"""PEFT's name of an adapter that was given none."""


@dataclass
class AdaptedLayer:
    """The low-rank weights of one layer."""

    trained_name: str
    """Name of the layer in the model that the adapter was trained on; patterns refer to it."""
    factors: dict[str, Tensor] = field(default_factory=dict)
    """Tensors by the keys of `FACTORS`."""

    @property
    def rank(self) -> int:
        """The adapter's rank."""
        first = next(self.factors[first] for first, _ in PAIRS if first in self.factors)
        return int(first.shape[0])


@dataclass
class AdapterWeights:
    """An adapter's weights by names of our model."""

    layers: dict[str, AdaptedLayer] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)
    """Parameters that the adapter replaces: saved modules, biases, embedding tables."""
    token_rows: dict[str, Tensor] = field(default_factory=dict)
    """New rows of embedding tables, by layer."""
    trained: dict[str, str] = field(default_factory=dict)
    """Names of ours by the names that the same layers and parameters have in the file."""


def read_weights(model: nn.Module, folder: Path) -> AdapterWeights:
    """Reads `adapter_model.safetensors`.

    Args:
        model: the base model without a head.
        folder: the adapter's folder.

    Raises:
        BundleError: the file cannot be read, or holds a weight of a layer that the model does not
            have, one that is not a number, half of a pair, one for a larger vocabulary, or weights
            of one layer under two names.
    """
    path = folder / WEIGHTS
    if not path.exists() and not path.is_symlink():
        content = what_instead(folder).replace("weights", "weights of an adapter")
        raise BundleError(f"{folder}: holds {content}, but no {WEIGHTS}; save it as safetensors")
    tensors = read_tensors(path)
    check_finite(tensors, str(path))
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    weights = AdapterWeights()
    for key, value in tensors.items():
        # tensors of three dimensions, which PEFT adapts in a way of its own
        if ".experts." in key and key.endswith(tuple(FACTORS)):
            raise BundleError(
                f"{path}: adapts experts ({shown(key)}), which is not supported; merge it with PEFT"
            )
        _sort(key, value, weights, modules, parameters, path)
    for name, layer in weights.layers.items():
        _check_pair(name, layer, path)
    return weights


def _sort(
    key: str,
    value: Tensor,
    weights: AdapterWeights,
    modules: dict[str, nn.Module],
    parameters: dict[str, nn.Parameter],
    path: Path,
) -> None:
    """Puts one tensor of the file where it belongs; raises `BundleError`."""
    trained = next(key.removeprefix(prefix) for prefix in PREFIXES if key.startswith(prefix))
    # a trainer that saves a state dict as it is leaves the adapter's name in it
    trained = trained.replace(f"modules_to_save.{ADAPTER}.", "").replace(f".{ADAPTER}", "")
    # with all biases PEFT saves those that a saved module replaces, and its own under two names
    if ORIGINAL in trained:
        return
    if f".{HEAD}." in f".{trained}":
        _check_head(trained, value, parameters, path)
        return
    for suffix in (*FACTORS, *TOKENS):
        if trained.endswith(f".{suffix}"):
            layer_name = trained.removesuffix(f".{suffix}")
            name = our_name(layer_name, modules.__contains__)
            if name is None or (suffix in TOKENS and not isinstance(modules[name], nn.Embedding)):
                raise _unknown(key, path)
            if not _added(value, suffix, layer_name, name, weights):
                raise _twice(key, name, path)
            return
    parameter = trained.replace(".base_layer.", ".")
    name = our_name(parameter, parameters.__contains__)
    if name is None:
        raise _unknown(key, path)
    if name in weights.whole and not weights.whole[name].equal(value):
        raise _twice(key, name, path)
    _check_shape(name, value, parameters[name], path)
    weights.whole[name] = value
    weights.trained[parameter] = name


def _added(value: Tensor, suffix: str, layer_name: str, name: str, weights: AdapterWeights) -> bool:
    """Adds a factor or new rows to a layer; returns False if the layer has them by another name."""
    weights.trained[layer_name] = name
    if suffix in TOKENS:
        return weights.token_rows.setdefault(name, value) is value
    layer = weights.layers.setdefault(name, AdaptedLayer(layer_name))
    present = {FACTORS[factor] for factor in layer.factors}
    if layer.trained_name != layer_name or FACTORS[suffix] in present:
        return False
    layer.factors[suffix] = value
    return True


def _unknown(key: str, path: Path) -> BundleError:
    return BundleError(
        f"{path}: holds the unknown weight {shown(key)}; check base_model_name_or_path"
    )


def _twice(key: str, name: str, path: Path) -> BundleError:
    return BundleError(
        f"{path}: holds weights of {shown(name)} under two names, {shown(key)} is the second; "
        "copy the adapter again"
    )


def _check_head(name: str, value: Tensor, parameters: dict[str, nn.Parameter], path: Path) -> None:
    """Raises `BundleError` if a head was saved for more tokens than the base has."""
    table = parameters.get("language_model.embed_tokens.weight")
    if name.endswith(f"{HEAD}.weight") and table is not None and len(value) != len(table):
        raise _another_vocabulary(len(value), len(table), path)


def _check_shape(name: str, value: Tensor, parameter: Tensor, path: Path) -> None:
    if value.shape == parameter.shape:
        return
    if name.endswith("embed_tokens.weight") and value.shape[1:] == parameter.shape[1:]:
        raise _another_vocabulary(len(value), len(parameter), path)
    raise BundleError(
        f"{path}: the weight {shown(name)} is {tuple(value.shape)}, the model's is "
        f"{tuple(parameter.shape)}; check base_model_name_or_path"
    )


def _another_vocabulary(saved: int, own: int, path: Path) -> BundleError:
    return BundleError(
        f"{path}: was trained with a vocabulary of {saved:,} tokens, and its base has {own:,}; "
        "merge it with PEFT (merge_and_unload) and give the merged folder with its tokenizer"
    )


def _check_pair(name: str, layer: AdaptedLayer, path: Path) -> None:
    """Raises `BundleError` unless a layer has one pair of factors, both with the same rank."""
    present = [pair for pair in PAIRS if set(pair) & set(layer.factors)]
    for pair in present:
        if missing := [suffix for suffix in pair if suffix not in layer.factors]:
            raise BundleError(
                f"{path}: lacks the weight {missing[0]} of {shown(name)}; copy the adapter again"
            )
    if len(present) != 1:
        raise BundleError(
            f"{path}: holds no pair of lora_A and lora_B of {shown(name)}; copy the adapter again"
        )
    one, other = (layer.factors[suffix] for suffix in present[0])
    if min(one.ndim, other.ndim) < 2 or one.shape[0] != other.shape[1] or not one.shape[0]:
        raise BundleError(
            f"{path}: lora_A of {shown(name)} is {tuple(one.shape)}, lora_B {tuple(other.shape)}, "
            "which do not match; copy the adapter again"
        )
