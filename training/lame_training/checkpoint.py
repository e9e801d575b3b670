"""A checkpoint folder: what a model is.

    model.safetensors  config.json  recipe.json  contract.json  tokenizer.json     the model
    adapter/                                                                       a LoRA adapter as PEFT writes it, if there is one
    losses.csv  skipped.jsonl  tensorboard/                                        the log: one row per step, rows left out, curves
    data.json  architecture.json  environment.json                                 what was trained on, what is trained, with what
    state/                                                                         where a run stands; see `states`

A file appears under its name only when it is complete, and `config.json`, without which nothing here counts
as a checkpoint, is removed first and written last.
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
from lame_runtime.atomic import atomic_path, atomic_text
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract.manifest import sha256_file
from lame_runtime.errors import BundleError, InputError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3Config

from lame_training.adapters import is_adapter, merge_adapter, save_adapter, without_adapter
from lame_training.backbones import FAMILIES, first_line
from lame_training.data import row_files
from lame_training.model import LaMEModel
from lame_training.recipes import Recipe
from lame_training.sharding import collect

MODEL_FILES = ("model.safetensors", "recipe.json", "contract.json", "tokenizer.json", "config.json")
SWITCHES = ("embed_attends", "rec_from", "pooling")
"""Arguments of the model that a config names beside its sizes."""


def save_model(folder: Path, model: LaMEModel, recipe: Recipe, steps: int, *, write: bool = True) -> None:
    """Writes weights, recipe and config (with the steps trained) into `folder`, where contract and tokenizer already lie.

    Every process must call it where the model is sharded; only the one with `write` writes.
    """
    parameters = collect(named_weights(model), keep=write)
    if not write:
        return
    (folder / "config.json").unlink(missing_ok=True)  # of an earlier stop: from here to the end the folder is no checkpoint
    adapter = {name.removeprefix("backbone."): value for name, value in parameters.items() if is_adapter(name)}
    write_weights(folder / "model.safetensors", {without_adapter(name): v for name, v in parameters.items() if not is_adapter(name)})
    if adapter:
        _write_adapter(folder, model, adapter)
    write_recipe(folder, recipe)
    atomic_text(folder / "config.json", json.dumps({"steps": steps, **_architecture(model)}, indent=2, sort_keys=True, default=str) + "\n")


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes a safetensors file, whole or not at all; raises `InputError`."""
    with atomic_path(path) as fresh:
        try:
            save_file({name: value.detach().contiguous() for name, value in weights.items()}, fresh)
        except SafetensorError as error:
            raise OSError(str(error)) from None


def _write_adapter(folder: Path, model: LaMEModel, weights: dict[str, Tensor]) -> None:
    fresh = folder / ".adapter"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        save_adapter(model.backbone, weights, fresh)
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        fresh.rename(folder / "adapter")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / 'adapter'}: cannot be written ({error}); free some space and continue with --resume") from None


def _architecture(model: LaMEModel) -> dict[str, Any]:
    """What a model can be built from, weights aside."""
    decoder = None if model.decoder is None else model.decoder.config.to_dict()
    return {
        "n_reason": model.n_reason,
        "dim": model.dim,
        **{name: getattr(model, name) for name in SWITCHES},
        "backbone": model.backbone.config.to_dict(),
        "decoder": decoder,
    }


def load_model(folder: Path, *, dtype: torch.dtype | None = torch.float32, decoder: bool = True) -> tuple[LaMEModel, Preparer]:
    """Reads a checkpoint: the model in evaluation mode, and its contract.

    An adapter in `FOLDER/adapter/` (PEFT's files) is merged into the backbone, in FP32.

    Args:
        folder: what `lame-train` wrote.
        dtype: of the weights; None keeps the file's, mapped from the disk rather than read, but for what an adapter changed.
        decoder: with connector and latent decoder, which inference does not need.

    Raises:
        BundleError: not a checkpoint, or its weights do not fit its config.
    """
    if not (folder / "config.json").is_file():
        kind = "a bundle, not a checkpoint" if (folder / "manifest.json").is_file() else "not a complete checkpoint (no config.json)"
        raise BundleError(f"{folder}: is {kind}; give the folder that lame-train wrote")
    if missing := [name for name in MODEL_FILES if not (folder / name).is_file()]:
        raise BundleError(f"{folder}: {missing[0]} is missing; copy or train the checkpoint again")
    preparer = Preparer.load(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        model = empty_model(config, decoder=decoder)
    except Exception as error:  # configs are validated by several libraries, each with its own exceptions
        raise BundleError(f"{folder}: cannot be read ({first_line(error)}); copy or train the checkpoint again") from None
    if not decoder:
        weights = {name: value for name, value in weights.items() if not name.startswith(("connector.", "decoder."))}
    load_weights(model, weights, str(folder))
    if (folder / "adapter").is_dir():
        model.backbone = merge_adapter(model.backbone, folder / "adapter", widen=True)
    return (model if dtype is None else model.to(dtype)).eval(), preparer


def empty_model(config: dict[str, Any], *, decoder: bool = True) -> LaMEModel:
    """The model a `config.json` describes, its weights without memory until `load_weights` puts them in."""
    with init_empty_weights(include_buffers=False):
        model = described_model(config, decoder=decoder)
    if model.decoder is not None:
        model.decoder.tie_weights()  # what is registered without memory is registered untied
    return model


def described_model(config: dict[str, Any], *, decoder: bool = True) -> LaMEModel:
    """The model that a `config.json` or an `architecture.json` describes, freshly initialised; raises `InputError` for another backbone."""
    kind = config["backbone"].get("model_type")
    if kind not in FAMILIES:
        raise InputError(f"its backbone is a {kind!r}; supported are {', '.join(FAMILIES)}")
    made = None if config["decoder"] is None or not decoder else Qwen3Config(**config["decoder"])
    switches = {name: config[name] for name in SWITCHES if name in config}  # a file from before a switch means its default
    return LaMEModel.from_configs(FAMILIES[kind].config(**config["backbone"]), made, config["n_reason"], config["dim"], **switches)


def load_weights(model: LaMEModel, weights: dict[str, Tensor], source: str) -> None:
    """Fills the model; every parameter exactly once, tied ones through their owner.

    Raises:
        BundleError: a weight is missing, left over or of another shape.
    """
    expected = named_weights(model)
    if missing := sorted(set(expected) - set(weights)):
        raise BundleError(f"{source}: the weight {missing[0]} is missing ({len(missing)} in all); this is another model's file")
    if extra := sorted(set(weights) - set(expected)):
        raise BundleError(f"{source}: the weight {extra[0]} is unknown ({len(extra)} in all); this is another model's file")
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            raise BundleError(f"{source}: {name} is {tuple(weights[name].shape)}, the config says {tuple(value.shape)}")
        if not value.is_meta:
            value.data.copy_(weights[name])
    if any(value.is_meta for value in expected.values()):
        model.load_state_dict(weights, strict=False, assign=True)
        if model.decoder is not None:
            model.decoder.tie_weights()


def named_weights(model: LaMEModel) -> dict[str, Tensor]:
    """Parameters by name; a tied parameter appears once, under its first name."""
    return dict(model.named_parameters())


def write_contract(folder: Path, contract: Contract) -> None:
    """Writes `contract.json`."""
    atomic_text(folder / "contract.json", contract.to_json())


def write_architecture(folder: Path, model: LaMEModel, *, from_folder: bool) -> None:
    """Writes `architecture.json`: what a resumed run builds its model from, and whether a backbone's folder was its start."""
    facts = {**_architecture(model), "from_folder": from_folder}
    atomic_text(folder / "architecture.json", json.dumps(facts, indent=2, sort_keys=True, default=str) + "\n")


def read_architecture(folder: Path) -> dict[str, Any]:
    """What `write_architecture` wrote; raises `InputError`."""
    found = _read_json(folder / "architecture.json")
    if not isinstance(found, dict) or not {"backbone", "decoder", "n_reason", "dim", "from_folder"} <= set(found):
        raise InputError(f"{folder / 'architecture.json'}: cannot be read; train anew in another folder")
    return found


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Writes `recipe.json`."""
    atomic_text(folder / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")


def differs_from(folder: Path, recipe: Recipe) -> str:
    """The first field in which the recipe of the run in `folder` differs from `recipe`; empty where none does."""
    ours = json.loads(json.dumps(dataclasses.asdict(recipe)))
    theirs = _read_json(folder / "recipe.json")
    if not isinstance(theirs, dict):
        return "everything: recipe.json cannot be read"
    return next((name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)), "")


def steps_of(folder: Path) -> int | None:
    """The steps behind a complete checkpoint; None where `folder` holds none."""
    config = _read_json(folder / "config.json")
    return config.get("steps") if isinstance(config, dict) else None


def write_data(folder: Path, data: Path, recipe: Recipe) -> None:
    """Writes `data.json`: which training rows the run was started with."""
    atomic_text(folder / "data.json", json.dumps(_row_hashes(data, recipe), indent=2) + "\n")


def same_data(folder: Path, data: Path, recipe: Recipe) -> bool:
    """Whether the run in `folder` was started with the training rows of `data`; pictures are not compared."""
    path = folder / "data.json"
    return _read_json(path) == _row_hashes(data, recipe)


def _read_json(path: Path) -> Any:
    """The file's value; None where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _row_hashes(data: Path, recipe: Recipe) -> dict[str, str]:
    """sha256 of each data set's files, by its name and their paths below the data root."""
    sets = {task.name: task for stage in recipe.stages for task in stage.tasks}
    return {f"{name}: {os.path.relpath(path, data)}": sha256_file(path) for name in sorted(sets) for path in row_files(data, sets[name])}
