"""The output folder of a run, which becomes a checkpoint.

    model.safetensors  config.json  recipe.json  contract.json  tokenizer.json   the model
    adapter/              a LoRA adapter in PEFT's form, if the recipe trains one
    losses.csv            the log: one row per step (see `progress`)
    skipped.jsonl         rows that were left out, where they stand, and why
    tensorboard/          curves
    data.json             sha256 of the training rows
    architecture.json     what a resumed run builds its model from
    environment.json      versions, machine, processes (see `environment`)
    state/                states to resume from (see `resume`)
    cache/                Arrow copies of the rows, removed when the run is complete
    .lame-lock            held while a run writes to the folder (see `folder_lock`)

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
from lame_runtime.errors import BundleError, StorageError, UsageError, shown
from lame_runtime.files.atomic import atomic_text
from lame_runtime.files.json_file import read_json

from lame_training.data import row_files
from lame_training.model.checkpoint import architecture_of
from lame_training.model.lame import LaMEModel
from lame_training.recipes.recipe import Recipe

ARCHITECTURE_KEYS = {"backbone", "decoder", "n_reason", "dim", "from_folder"}
"""Keys that every `architecture.json` has."""


def check_folder(
    recipe: Recipe,
    data: Path | None,
    folder: Path,
    *,
    resume: bool,
    allow_outside: bool = False,
) -> None:
    """Checks that a folder may become, or already is, the output folder of a run.

    Args:
        recipe: the run's recipe, with its data sets.
        data: root of the training data; None if it does not exist yet.
        folder: the output folder.
        resume: whether the folder must hold a run of this recipe on these rows.
        allow_outside: whether paths and links may lead out of `data`.

    Raises:
        StorageError: the folder already holds a run, or another model.
        UsageError: the folder holds no run to resume, or a run of another recipe or other rows.
        BundleError: a file of the run to resume is damaged.
    """
    # written last when a run is started, and before any training
    occupied = os.path.lexists(folder / "recipe.json")
    if not resume:
        if occupied:
            raise StorageError(
                f"{folder}: already holds a run; continue it with `resume=True`, "
                "or choose another `output`"
            )
        _refuse_other_model(folder)
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
    if data is not None and not same_data(folder, data, recipe, allow_outside=allow_outside):
        raise UsageError(
            f"{folder}: was started with other training rows than {data}; "
            "resume with the same `data`"
        )


def _refuse_other_model(folder: Path) -> None:
    """Checks that a folder without a run holds no backbone, embedder or bundle either.

    A run that was killed before its first step leaves none of these files.
    """
    for name in ("config.json", "model.safetensors", "manifest.json"):
        if os.path.lexists(folder / name):
            raise StorageError(
                f"{folder}: holds another model, whose files the run would replace ({name}); "
                "choose another `output`"
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
    for name, least in (("n_reason", 0), ("dim", 1)):
        value = architecture[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise BundleError(
                f"{folder / 'architecture.json'}: {name} is {shown(repr(value))}; "
                "restore it, or train again in another folder"
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
    """Returns how many steps a complete checkpoint was trained for; None if it is not complete.

    Raises:
        BundleError: `config.json` is damaged.
    """
    if not os.path.lexists(folder / "config.json"):
        return None
    config = _read_json(folder / "config.json")
    steps = config.get("steps") if isinstance(config, dict) else None
    # a damaged file must not look like an unfinished run, which would be begun again
    if not isinstance(steps, int) or isinstance(steps, bool):
        raise BundleError(
            f"{folder / 'config.json'}: lacks the number of steps; restore it, or train again in "
            "another folder"
        )
    return steps


def write_data(folder: Path, data: Path, recipe: Recipe, *, allow_outside: bool = False) -> None:
    """Writes `data.json`, the hashes of the rows that the run is started with."""
    hashes = _row_hashes(data, recipe, allow_outside=allow_outside)
    atomic_text(folder / "data.json", json.dumps(hashes, indent=2) + "\n")


def same_data(folder: Path, data: Path, recipe: Recipe, *, allow_outside: bool = False) -> bool:
    """Returns whether a run was started with the rows of `data`; pictures are not compared."""
    recorded = _read_json(folder / "data.json")
    hashes = _row_hashes(data, recipe, allow_outside=allow_outside)
    return bool(recorded == hashes)


def _read_json(path: Path) -> Any:
    """Returns a file's value; None if it is missing.

    Raises:
        BundleError: the file cannot be read, or is not JSON.
    """
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(
            f"{path}: cannot be read ({shown(reason, 160)}); restore it, or train again in another "
            "folder"
        ) from None


def _row_hashes(data: Path, recipe: Recipe, *, allow_outside: bool) -> dict[str, str]:
    """Returns the sha256 of each data set's files, by data set and path below the data root.

    The path is part of the key: shards of one name in two folders are two files.
    """
    data_sets = {task.name: task for stage in recipe.stages for task in stage.tasks}
    return {
        f"{name}: {os.path.relpath(path, data)}": sha256_file(path)
        for name in sorted(data_sets)
        for path in row_files(data, data_sets[name], allow_outside=allow_outside)
    }
