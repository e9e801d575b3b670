"""Checks whether the files of a checkpoint are all there and belong to one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lame_runtime.contract import Contract
from lame_runtime.errors import BundleError, shown

from lame_training.model.from_disk.config_fields import STEPS, checked
from lame_training.model.from_disk.tensors import inside, read_object

IMPORTED = "imported"
"""Name in `recipe.json` of a model that was trained elsewhere."""
MODEL_FILES = ("model.safetensors", "recipe.json", "contract.json", "tokenizer.json", "config.json")


def steps_of(folder: Path) -> int:
    """Returns the number of steps that a checkpoint was trained; raises `BundleError`."""
    path = folder / "config.json"
    return int(checked("steps", read_object(path).get("steps"), STEPS, str(path)))


def is_trained(folder: Path) -> bool:
    """Returns whether the weights of a checkpoint were trained, here or before an import.

    Raises:
        BundleError: `config.json` or `recipe.json` cannot be read.
    """
    return steps_of(folder) > 0 or read_object(folder / "recipe.json").get("name") == IMPORTED


def check_files(folder: Path) -> None:
    """Raises `BundleError` if the folder is not a complete checkpoint, or a link leaves it."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        names = set()  # reported below: a missing folder holds no checkpoint
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        problem = "is not a complete checkpoint" if gone else "cannot be read"
        raise BundleError(
            f"{shown(folder)}: {problem} ({error.strerror}); give the folder that lame-train wrote"
        ) from None
    if "modules.json" in names:
        raise BundleError(
            f"{shown(folder)}: is a Sentence Transformers folder; write it as a checkpoint first: "
            f"lame-train import {shown(folder)} CHECKPOINT"
        )
    if "config.json" not in names:
        kind = (
            "a bundle, not a checkpoint"
            if "manifest.json" in names
            else "not a complete checkpoint (no config.json)"
        )
        raise BundleError(f"{shown(folder)}: is {kind}; give the folder that lame-train wrote")
    if missing := [name for name in MODEL_FILES if name not in names]:
        raise BundleError(f"{folder}: {missing[0]} is missing; copy or train the checkpoint again")
    # the runtime, whose readers follow links, reads these two; the others are checked when read
    for name in ("contract.json", "tokenizer.json"):
        inside(folder / name)
    adapter = folder / "adapter"
    # a file, or a folder elsewhere, is nothing that a run has written
    if "adapter" in names and (adapter.is_symlink() or not adapter.is_dir()):
        raise BundleError(
            f"{adapter}: is not a folder; remove it, or copy the checkpoint's adapter again"
        )


def check_contract(
    contract: Contract, backbone: Any, dim: int, n_reason: int, folder: Path
) -> None:
    """Raises `BundleError` if `contract.json` and `config.json` are of two models.

    Args:
        contract: the content of `contract.json`.
        backbone: the config of the backbone.
        dim: P of the model.
        n_reason: K of the model.
        folder: begins the message of the error.
    """
    for name, own, other in (
        ("family", contract.family, backbone.model_type),
        ("dim", contract.dim, dim),
        ("n_reason", contract.tokens.n_reason, n_reason),
        ("first_latent", contract.tokens.first_latent, backbone.text_config.vocab_size),
    ):
        if own != other:
            raise BundleError(
                f"{folder}: {name} is {own} in contract.json and {other} in config.json; "
                "copy or train the checkpoint again"
            )
