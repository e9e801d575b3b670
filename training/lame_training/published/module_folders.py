"""Reads the modules of a Sentence Transformers folder that follow the backbone.

Their files are described in Sentence Transformers 6.2, `sentence_transformer/modules/pooling.py`
and `base/modules/dense.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lame_runtime.errors import BundleError, shown
from torch import Tensor

from lame_training.model.from_disk.tensors import check_finite, read_folder_tensors, read_object

PublishedPooling = Literal["lasttoken", "mean"]
POOLINGS: tuple[PublishedPooling, ...] = ("lasttoken", "mean")
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Switches of the poolings in folders that were saved before version 6."""
_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": True,
    "torch.nn.modules.linear.Identity": False,
}
"""Activations after a dense layer, and whether they are tanh."""


@dataclass(frozen=True)
class Dense:
    """The affine layer after the pooling."""

    weight: Tensor
    """float32 (out, in)."""
    bias: Tensor
    """float32 (out,); zeros if the folder has none."""
    tanh: bool


def read_pooling(folder: Path, width: int) -> PublishedPooling:
    """Reads the folder of a `Pooling` module.

    Args:
        folder: the module's folder.
        width: the width of the backbone.

    Raises:
        BundleError: the pooling is not supported, or its width is another.
    """
    path = folder / "config.json"
    config = read_object(path, missing_is_empty=False)
    mode = config.get("pooling_mode")
    if mode is None:
        active = [name for key, name in _OLD_POOLINGS.items() if config.get(key)]
        # without any switch it is the mean, as in Sentence Transformers
        mode = active[0] if len(active) == 1 else active or "mean"
    if isinstance(mode, list) and len(mode) == 1:
        mode = mode[0]
    for pooling in POOLINGS:
        if mode == pooling:
            own = config.get("embedding_dimension", config.get("word_embedding_dimension"))
            if own != width:
                raise BundleError(
                    f"{path}: pools states of {shown(repr(own))} values, the backbone has {width}; "
                    "they belong to two models"
                )
            return pooling
    raise BundleError(
        f"{path}: pooling_mode is {shown(repr(mode))}; supported are {' and '.join(POOLINGS)}"
    )


def read_dense(folder: Path, width: int) -> Dense:
    """Reads the folder of a `Dense` module.

    Args:
        folder: the module's folder.
        width: number of values that it reads.

    Raises:
        BundleError: a setting is not supported, or the weights do not fit.
    """
    path = folder / "config.json"
    config = read_object(path, missing_is_empty=False)
    _check_dense(config, path, width)
    # converted first, because a value of 64 bits may be beyond the range of 32
    weights = {name: value.float() for name, value in read_folder_tensors(folder).items()}
    check_finite(weights, str(folder))
    size = config["out_features"]
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (size, width)}
    if config.get("bias", True):
        shapes["linear.bias"] = (size,)
    sizes = {name: tuple(value.shape) for name, value in weights.items()}
    if sizes != shapes:
        raise BundleError(
            f"{folder}: its weights are {shown(sizes, 200)}; config.json says {shown(shapes, 200)}"
        )
    bias = weights.get("linear.bias", torch.zeros(size))
    tanh = _ACTIVATIONS[config["activation_function"]]
    return Dense(weights["linear.weight"], bias, tanh)


def check_normalize(folder: Path) -> None:
    """Raises `BundleError` if a `Normalize` module changes anything but the vector."""
    path = folder / "config.json"
    config = read_object(path)
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in ("sentence_embedding", None):
            raise BundleError(
                f"{path}: {name} is {shown(repr(config[name]))}; supported is sentence_embedding"
            )


def _check_dense(config: dict[str, Any], path: Path, width: int) -> None:
    """Raises `BundleError` unless a dense layer is one that `Dense` describes."""
    config.setdefault("activation_function", "torch.nn.modules.activation.Tanh")
    config.setdefault("module_input_name", "sentence_embedding")
    config.setdefault("module_output_name", config["module_input_name"])
    expected: dict[str, tuple[Any, ...]] = {
        "in_features": (width,),
        "activation_function": tuple(_ACTIVATIONS),
        "module_input_name": ("sentence_embedding",),
        "module_output_name": ("sentence_embedding", None),
        "use_residual": (False, None),
        "bias": (True, False, None),
    }
    for name, values in expected.items():
        if config.get(name) not in values:
            known = " or ".join(str(value) for value in values if value is not None)
            raise BundleError(
                f"{path}: {name} is {shown(repr(config.get(name)))}; supported is {known}"
            )
    out = config.get("out_features")
    if type(out) is not int or not 0 < out <= 65_536:
        raise BundleError(f"{path}: out_features is {shown(repr(out))}; expected 1 to 65,536")
