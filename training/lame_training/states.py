"""Where a run stands, for `--resume`.

    state/step-000100/   weights that some stage trains, and the optimizer's moments, after 100 steps
    state/fixed.safetensors   the weights that no stage trains, written once

A state appears under its name only when it is complete, so a kill at any moment leaves the one before.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from lame_runtime.errors import BundleError, InputError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lame_training.checkpoint import load_weights, named_weights, write_weights
from lame_training.model import LaMEModel
from lame_training.sharding import alike, collect


def save_fixed(folder: Path, model: LaMEModel, trained: set[str]) -> None:
    """Writes the weights that no stage trains, where there are any; raises `InputError`."""
    fixed = {name: value for name, value in named_weights(model).items() if name not in trained}
    if fixed:
        try:
            (folder / "state").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder / 'state'}: cannot be made ({error.strerror}); free some space, or choose another --out") from None
        write_weights(folder / "state/fixed.safetensors", fixed)


def save_state(
    folder: Path, step: int, model: LaMEModel, optimizer: torch.optim.AdamW, trained: set[str], *, keep: int = 1, write: bool = True
) -> None:
    """Writes `state/step-N` after `step` steps and removes all but the newest `keep` states once it is complete.

    Every process must call it where the model is sharded; only the one with `write` writes.

    Raises:
        InputError: the file system refuses; the older states are kept.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = collect({name: value for name, value in named_weights(model).items() if name in trained}, keep=write)
    found = {f"{names[id(parameter)]}|{key}": value for parameter, state in optimizer.state.items() for key, value in state.items()}
    moments = collect(found, keep=write)
    if not write:
        return
    states = folder / "state"
    target, fresh = states / f"step-{step:06d}", states / "incomplete"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        for name, tensors in (("model", weights), ("optimizer", moments)):
            save_file({key: value.detach().contiguous() for key, value in tensors.items()}, fresh / f"{name}.safetensors")
            _to_disk(fresh / f"{name}.safetensors")
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
        _to_disk(states)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise InputError(f"{target}: cannot be written ({error}); free some space and continue with --resume") from None
    for old in complete_states(folder)[:-keep]:
        shutil.rmtree(old)


def _to_disk(path: Path) -> None:
    """Waits until a file or a folder's list of names is on the disk, so that not even a power cut leaves half of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def complete_states(folder: Path) -> list[Path]:
    """The states that can be resumed from, oldest first."""
    return sorted((folder / "state").glob(f"step-{'[0-9]' * 6}"))


def step_of(state: Path) -> int:
    """How many steps a state has behind it."""
    return int(state.name.removeprefix("step-"))


def load_state(state: Path, model: LaMEModel) -> dict[str, dict[str, Tensor]]:
    """Fills the model, which must not be sharded yet, from a state, and returns the optimizer's moments by parameter.

    Raises:
        BundleError: a file of the state is missing, cut short or another model's.
    """
    fixed = state.parent / "fixed.safetensors"
    try:
        weights, recorded = load_file(state / "model.safetensors"), load_file(state / "optimizer.safetensors")
        weights |= load_file(fixed) if fixed.is_file() else {}
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{state}: cannot be read ({error}); remove this state, or train anew in another folder") from None
    load_weights(model, weights, str(state))
    moments: dict[str, dict[str, Tensor]] = {}
    for name, value in recorded.items():
        parameter, key = name.rsplit("|", 1)
        moments.setdefault(parameter, {})[key] = value
    return moments


def restore_moments(model: LaMEModel, optimizer: torch.optim.AdamW, moments: dict[str, dict[str, Tensor]]) -> None:
    """Gives the optimizer of the stage that `moments` were saved in its state back, sharded as the parameters are."""
    for name, parameter in model.named_parameters():
        if name in moments:
            optimizer.state[parameter] = {
                key: alike(value, parameter) if value.ndim else value.to(parameter.device)  # a fused optimizer counts steps on the device
                for key, value in moments[name].items()
            }


def remove_states(folder: Path) -> None:
    """Removes all states: the model is complete."""
    shutil.rmtree(folder / "state", ignore_errors=True)
