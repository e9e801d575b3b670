"""Reads and writes the model files of a checkpoint folder.

    model.safetensors   all weights but an adapter's; a tied weight appears once
    config.json         the architecture and the number of steps trained
    recipe.json         the recipe of the run
    adapter/            a LoRA adapter in PEFT's format, if the recipe trains one

`contract.json` and `tokenizer.json` complete a checkpoint; they are written when a run starts
(`run.initialization`). The files with which a run keeps its books are those of `run.run_folder`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from lame_runtime.contract import Preparer
from lame_runtime.contract.rules import OLDEST_CHECKPOINT_VERSION
from lame_runtime.errors import BundleError, StorageError, first_line, shown
from lame_runtime.files.atomic import atomic_path, atomic_text
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lame_training.distributed.sharding import full_tensors
from lame_training.model.adapters import is_adapter, name_without_adapter, save_adapter
from lame_training.model.backbones import parse_config, parse_decoder_config
from lame_training.model.from_disk.checkpoint_checks import IMPORTED, check_contract, check_files
from lame_training.model.from_disk.config_fields import SIZES, checked
from lame_training.model.from_disk.merging.adapter_merge import merge_adapter
from lame_training.model.from_disk.tensors import check_finite, read_object, read_tensors
from lame_training.model.lame import LaMEModel
from lame_training.recipes.recipe import Recipe

SWITCHES = {
    "embed_attends": "embed_attends",
    "rec_from": "rec_from",
    "pooling": "pooling",
    "head": "head_kind",
}
"""Arguments of `LaMEModel` that `config.json` holds in addition to the sizes; the attribute."""


def save_model(
    folder: Path, model: LaMEModel, recipe: Recipe, steps: int, *, write: bool = True
) -> None:
    """Writes the model files into `folder`, which already holds contract and tokenizer.

    Args:
        folder: the checkpoint folder.
        model: the model; if it is sharded, every process must make this call.
        recipe: the recipe of the run.
        steps: the number of steps trained.
        write: whether this process writes; the others only take part in collecting the weights.

    Raises:
        StorageError: a file cannot be written.
    """
    parameters = full_tensors(named_weights(model), keep=write)
    if not write:
        return
    # a folder without config.json is no checkpoint: the file is removed first and written last, so
    # a kill in between cannot leave new weights beside an older adapter
    (folder / "config.json").unlink(missing_ok=True)
    adapter = {
        name.removeprefix("backbone."): value
        for name, value in parameters.items()
        if is_adapter(name)
    }
    base = {
        name_without_adapter(name): value
        for name, value in parameters.items()
        if not is_adapter(name)
    }
    write_weights(folder / "model.safetensors", base)
    if adapter:
        _write_adapter(folder, model, adapter)
    write_recipe(folder, recipe)
    _write_config(folder, model, steps)


def write_imported(folder: Path, model: LaMEModel, source: dict[str, Any]) -> None:
    """Writes the model files of a model that was trained elsewhere.

    Args:
        folder: the checkpoint folder, which already holds contract and tokenizer.
        model: the model.
        source: where it comes from; stands in `recipe.json` in place of a recipe.

    Raises:
        StorageError: a file cannot be written.
    """
    write_weights(folder / "model.safetensors", named_weights(model))
    text = json.dumps({"name": IMPORTED, "source": source}, indent=2) + "\n"
    atomic_text(folder / "recipe.json", text)
    _write_config(folder, model, 0)


def _write_config(folder: Path, model: LaMEModel, steps: int) -> None:
    """Writes `config.json`; raises `StorageError`."""
    config = {"steps": steps, **architecture_of(model)}
    text = json.dumps(config, indent=2, sort_keys=True, default=str) + "\n"
    atomic_text(folder / "config.json", text)


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes a safetensors file, completely or not at all; raises `StorageError`."""
    with atomic_path(path) as temporary:
        try:
            save_file(
                {name: value.detach().contiguous() for name, value in weights.items()}, temporary
            )
        except SafetensorError as error:
            # safetensors wraps what the file system says; `atomic_path` translates OSError alone
            raise OSError(str(error)) from None


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Writes `recipe.json`; raises `StorageError`."""
    atomic_text(folder / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")


def _write_adapter(folder: Path, model: LaMEModel, weights: dict[str, Tensor]) -> None:
    """Writes `adapter/` beside its final place and then renames it; raises `StorageError`."""
    temporary = folder / ".adapter"
    shutil.rmtree(temporary, ignore_errors=True)
    # an adapter is two files, which only the rename makes appear together
    try:
        temporary.mkdir()
        save_adapter(model.backbone, weights, temporary)
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        temporary.rename(folder / "adapter")
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{folder / 'adapter'}: cannot be written ({error}); "
            "free some space and continue with `resume=True`"
        ) from None


def architecture_of(model: LaMEModel) -> dict[str, Any]:
    """Returns what `described_model` builds the model from: sizes, switches and configs."""
    decoder = None if model.decoder is None else model.decoder.config.to_dict()
    return {
        "n_reason": model.n_reason,
        "dim": model.dim,
        **{name: getattr(model, attribute) for name, attribute in SWITCHES.items()},
        "backbone": model.backbone.config.to_dict(),
        "decoder": decoder,
    }


def load_preparer(folder: Path) -> Preparer:
    """Reads contract and tokenizer of a checkpoint; raises `BundleError` if they cannot be used."""
    return Preparer.load(folder, oldest=OLDEST_CHECKPOINT_VERSION)


def load_model(
    folder: Path, *, dtype: torch.dtype | None = torch.float32, decoder: bool = True
) -> tuple[LaMEModel, Preparer]:
    """Reads a checkpoint; returns the model in evaluation mode, and the preparer of its inputs.

    An adapter in `folder/adapter/` is merged into the backbone, in FP32.

    Args:
        folder: a folder that `lame-train` wrote.
        dtype: the type of the weights. None keeps the stored type; weights are then mapped from the
            disk rather than read, except those that an adapter changes.
        decoder: whether to build connector and latent decoder, which inference does not need.

    Raises:
        BundleError: the folder is no checkpoint, or a setting or a weight cannot be used; the
            message names it.
    """
    check_files(folder)
    # first, because a contract of another version is refused without reading the weights
    preparer = load_preparer(folder)
    config = read_object(folder / "config.json")
    model = empty_model(config, decoder=decoder, source=f"{folder / 'config.json'}")
    check_contract(preparer.contract, model.backbone.config, model.dim, model.n_reason, folder)
    # safetensors maps the file; a weight is read from the disk when it is used
    weights = read_tensors(folder / "model.safetensors")
    if not decoder:
        # `load_weights` refuses weights that the model does not have
        weights = {
            name: value
            for name, value in weights.items()
            if not name.startswith(("connector.", "decoder."))
        }
    check_finite(weights, f"{folder / 'model.safetensors'}")
    load_weights(model, weights, str(folder))
    if os.path.lexists(folder / "adapter"):
        # widened, because training added base and adapter in FP32
        model.backbone = merge_adapter(model.backbone, folder / "adapter", widen=True)
    return (model if dtype is None else model.to(dtype)).eval(), preparer


def empty_model(
    config: dict[str, Any], *, decoder: bool = True, source: str = "config.json"
) -> LaMEModel:
    """Builds the model that a `config.json` describes, with parameters on the meta device.

    They take no memory until `load_weights` fills them. Buffers (rotary frequencies) are real,
    because they are computed, not loaded. Raises `BundleError` as `described_model`.
    """
    with init_empty_weights(include_buffers=False):
        model = described_model(config, decoder=decoder, source=source)
    if model.decoder is not None:
        # accelerate replaces each parameter as it is registered, which separates tied ones
        model.decoder.tie_weights()
    return model


def described_model(
    config: dict[str, Any], *, decoder: bool = True, source: str = "config.json"
) -> LaMEModel:
    """Builds the model that a `config.json` or an `architecture.json` describes, newly initialized.

    Args:
        config: the object of the file.
        decoder: whether to build connector and latent decoder.
        source: begins the messages of errors.

    Raises:
        BundleError: the backbone is of another family, or a setting is missing or out of its range;
            the message names it.
    """
    remedy = "copy or train the checkpoint again"
    for name in ("backbone", "decoder"):
        # a model without a decoder has null
        part = config.get(name)
        if not isinstance(part, dict) and (part is not None or name == "backbone"):
            raise BundleError(f"{source}: {name} is {shown(repr(part))}, not an object; {remedy}")
    for name in ("n_reason", "dim"):
        if name not in config:
            raise BundleError(f"{source}: lacks {name}; {remedy}")
    # a file that was written before a switch existed means the switch's default
    values = {
        name: checked(name, config[name], check, source)
        for name, check in SIZES.items()
        if name in config
    }
    backbone = parse_config(config["backbone"], f"{source}: backbone")
    decoder_config = None
    if decoder and config.get("decoder") is not None:
        decoder_config = parse_decoder_config(config["decoder"], f"{source}: decoder")
    try:
        return LaMEModel.from_configs(backbone, decoder_config, **values)
    except Exception as error:  # torch and transformers raise what they like for unusual shapes
        raise BundleError(
            f"{source}: describes no model ({shown(first_line(error))}); {remedy}"
        ) from None


def load_weights(model: LaMEModel, weights: dict[str, Tensor], source: str) -> None:
    """Fills every parameter of the model; tied parameters are given once.

    Args:
        model: its parameters may be on the meta device; the tensors are then assigned, not copied.
        weights: all parameters by name.
        source: begins the messages of errors.

    Raises:
        BundleError: a weight is missing, left over or of another shape.
    """
    expected = named_weights(model)
    if missing := sorted(set(expected) - set(weights)):
        raise BundleError(
            f"{source}: the weight {shown(missing[0])} is missing ({len(missing)} in all); "
            "this is another model's file"
        )
    if extra := sorted(set(weights) - set(expected)):
        raise BundleError(
            f"{source}: the weight {shown(extra[0])} is unknown ({len(extra)} in all); "
            "this is another model's file"
        )
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            raise BundleError(
                f"{source}: {name} is {tuple(weights[name].shape)}, "
                f"the config says {tuple(value.shape)}"
            )
        if not value.is_meta:
            value.data.copy_(weights[name])
    if any(value.is_meta for value in expected.values()):
        # not strict: the second name of a tied parameter is not among the weights
        model.load_state_dict(weights, strict=False, assign=True)
        if model.decoder is not None:
            model.decoder.tie_weights()


def named_weights(model: LaMEModel) -> dict[str, Tensor]:
    """Returns the parameters by name; a tied parameter appears once, under its first name."""
    return dict(model.named_parameters())
