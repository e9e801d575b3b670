"""The output folder of a run, which becomes a checkpoint.

    model.safetensors  config.json  recipe.json  contract.json  tokenizer.json   the model
    adapter/              a LoRA adapter in PEFT's form, if the recipe trains one
    losses.csv            the log: one row per step (see `progress`)
    skipped.jsonl         rows that were left out, and why
    tensorboard/          curves
    data.json             sha256 of the training rows
    architecture.json     what a resumed run builds its model from
    environment.json      versions, machine, processes (see `environment`)
    state/                states to resume from (see `resume`)
    cache/                Arrow copies of the rows, removed when the run is complete

A file appears under its name only when it is complete. `config.json` makes a folder a checkpoint:
it is removed first and written last, so that a killed run never leaves a model of mixed parts.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from lame_runtime.bundle.manifest import sha256_file
from lame_runtime.contract import Contract
from lame_runtime.errors import BundleError, StorageError, UsageError
from lame_runtime.files.atomic import atomic_text

from lame_training.data import row_files
from lame_training.model.checkpoint import architecture_of
from lame_training.model.lame import LaMEModel
from lame_training.recipes.recipe import Recipe

ARCHITECTURE_KEYS = {"backbone", "decoder", "n_reason", "dim", "from_folder"}
"""Keys that every `architecture.json` has."""


def check_folder(recipe: Recipe, data: Path | None, folder: Path, *, resume: bool) -> None:
    """Checks that a folder may become, or already is, the output folder of a run.

    Args:
        recipe: the run's recipe, with its data sets.
        data: root of the training data; None if it does not exist yet.
        folder: the output folder.
        resume: whether the folder must hold a run of this recipe on these rows.

    Raises:
        StorageError: the folder already holds a run.
        UsageError: the folder holds no run to resume, or a run of another recipe or other rows.
    """
    # written last when a run is started, and before any training
    occupied = (folder / "recipe.json").is_file()
    if not resume:
        if occupied:
            raise StorageError(
                f"{folder}: already holds a run; continue it with `resume=True`, "
                "or choose another `output`"
            )
        return
    if not occupied:
        raise UsageError(f"{folder}: holds no run to resume; start it without `resume=True`")
    difference = differs_from(folder, recipe)
    if difference:
        raise UsageError(
            f"{folder}: was started with another recipe (differs in {difference}); "
            "resume with that one, or choose another `output`"
        )
    # the tokenizer was trained on the rows, so other rows would give its ids another meaning
    if data is not None and not same_data(folder, data, recipe):
        raise UsageError(
            f"{folder}: was started with other training rows than {data}; "
            "resume with the same `data`"
        )


def make_output_folder(folder: Path) -> None:
    """Makes the output folder unless it exists.

    Raises:
        StorageError: the file system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be made ({error.strerror}); choose another `output`"
        ) from None


def write_contract(folder: Path, contract: Contract) -> None:
    """Writes `contract.json`."""
    atomic_text(folder / "contract.json", contract.to_json())


def write_architecture(folder: Path, model: LaMEModel, *, from_folder: bool) -> None:
    """Writes `architecture.json`, from which a resumed run builds its model.

    Args:
        folder: the output folder.
        model: the model in training.
        from_folder: whether the weights came from a backbone's folder rather than from the seed.
    """
    facts = {**architecture_of(model), "from_folder": from_folder}
    atomic_text(
        folder / "architecture.json",
        # str: configs of transformers hold dtypes
        json.dumps(facts, indent=2, sort_keys=True, default=str) + "\n",
    )


def read_architecture(folder: Path) -> dict[str, Any]:
    """Reads `architecture.json`.

    Raises:
        BundleError: the file is missing, damaged or incomplete.
    """
    architecture = _read_json(folder / "architecture.json")
    if not isinstance(architecture, dict) or not set(architecture) >= ARCHITECTURE_KEYS:
        raise BundleError(
            f"{folder / 'architecture.json'}: cannot be read; train again in another folder"
        )
    return architecture


def differs_from(folder: Path, recipe: Recipe) -> str:
    """Returns the first field in which a run's recipe differs from `recipe`; "" if none does."""
    # through JSON, which turns tuples into lists, as the file has them
    ours = json.loads(json.dumps(dataclasses.asdict(recipe)))
    theirs = _read_json(folder / "recipe.json")
    if not isinstance(theirs, dict):
        return "everything: recipe.json cannot be read"
    return next(
        (name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)), ""
    )


def steps_of(folder: Path) -> int | None:
    """Returns how many steps a complete checkpoint was trained for; None if it is not complete."""
    config = _read_json(folder / "config.json")
    return config.get("steps") if isinstance(config, dict) else None


def write_data(folder: Path, data: Path, recipe: Recipe) -> None:
    """Writes `data.json`, the hashes of the rows that the run is started with."""
    atomic_text(folder / "data.json", json.dumps(_row_hashes(data, recipe), indent=2) + "\n")


def same_data(folder: Path, data: Path, recipe: Recipe) -> bool:
    """Returns whether a run was started with the rows of `data`; pictures are not compared."""
    recorded = _read_json(folder / "data.json")
    hashes = _row_hashes(data, recipe)
    return bool(recorded == hashes)


def _read_json(path: Path) -> Any:
    """Returns a file's value; None if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _row_hashes(data: Path, recipe: Recipe) -> dict[str, str]:
    """Returns the sha256 of each data set's files, by data set and path below the data root.

    The path is part of the key: shards of one name in two folders are two files.
    """
    data_sets = {task.name: task for stage in recipe.stages for task in stage.tasks}
    return {
        f"{name}: {os.path.relpath(path, data)}": sha256_file(path)
        for name in sorted(data_sets)
        for path in row_files(data, data_sets[name])
    }
