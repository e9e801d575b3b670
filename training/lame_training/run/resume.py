"""The states of a run in progress, from which it can be resumed.

    state/step-000100/        the weights that some stage trains, and the optimizer's moments
    state/fixed.safetensors   the weights that no stage trains, written once

A state appears under its name only when it is complete, so that a kill at any moment leaves the one
before it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from lame_runtime.errors import BundleError, StorageError, first_line, shown
from lame_runtime.files.regular import open_regular
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from lame_training.distributed.sharding import full_tensors, shard_like
from lame_training.model.checkpoint import load_weights, named_weights, write_weights
from lame_training.model.lame import LaMEModel

Moments = dict[str, dict[str, Tensor]]
"""The state of AdamW by parameter name: first and second moment, and the count of steps."""

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""Keys of the state of one parameter."""


def save_fixed(folder: Path, model: LaMEModel, trained: set[str]) -> None:
    """Writes the weights that no stage trains, if there are any.

    Args:
        folder: the output folder.
        model: the model, not sharded yet.
        trained: names of the parameters that some stage trains.

    Raises:
        StorageError: the file system refuses.
    """
    fixed = {name: value for name, value in named_weights(model).items() if name not in trained}
    if not fixed:
        return
    states = folder / "state"
    try:
        states.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{states}: cannot be made ({error.strerror}); "
            "free some space, or choose another `output`"
        ) from None
    write_weights(states / "fixed.safetensors", fixed)


def save_state(
    folder: Path,
    step: int,
    model: LaMEModel,
    optimizer: torch.optim.AdamW,
    trained: set[str],
    *,
    keep: int = 1,
    write: bool = True,
) -> None:
    """Writes `state/step-N` and then removes all but the newest `keep` states.

    Every process must call this if the model is sharded: collecting the weights is a collective.

    Args:
        folder: the output folder.
        step: number of steps that are done.
        model: the model.
        optimizer: the optimizer of the current stage.
        trained: names of the parameters that some stage trains.
        keep: number of states to keep.
        write: whether this process writes; one of them does.

    Raises:
        StorageError: the file system refuses. The older states are kept.
    """
    # all stages' trained weights, not this one's alone: an earlier stage has changed the others
    weights = {name: value for name, value in named_weights(model).items() if name in trained}
    weights = full_tensors(weights, keep=write)
    moments = full_tensors(_named_moments(model, optimizer), keep=write)
    if not write:
        return
    states = folder / "state"
    target, fresh = states / f"step-{step:06d}", states / "incomplete"
    replaced = states / "replaced"
    # a kill may have left a half-written one
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        for name, tensors in (("model", weights), ("optimizer", moments)):
            path = fresh / f"{name}.safetensors"
            save_file({key: value.detach().contiguous() for key, value in tensors.items()}, path)
            _flush_to_disk(path)
        # a run that stopped here before, and was continued from an older state; a kill while it is
        # removed must not leave a part of it under a complete name
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
        fresh.rename(target)
        _flush_to_disk(states)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise StorageError(
            f"{target}: cannot be written ({error}); "
            "free some space and continue with `resume=True`"
        ) from None
    # last: until the new state is complete, an older one is what a killed run goes back to
    for state in complete_states(folder)[:-keep]:
        # a file or a link of this name is no state of ours
        shutil.rmtree(state, ignore_errors=True)


def _named_moments(model: LaMEModel, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Returns the optimizer's state as "PARAMETER|KEY" → tensor, the names of its file."""
    # by name, because the optimizer's own order changes with the parts that a stage trains
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}|{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _flush_to_disk(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk.

    Without it, a rename may reach the disk before the data that it makes visible, and a power cut
    would leave half a state under a complete name.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def complete_states(folder: Path) -> list[Path]:
    """Returns the states that a run can be resumed from, oldest first."""
    # six digits, so that the order of names is the order of steps
    return sorted((folder / "state").glob(f"step-{'[0-9]' * 6}"))


def step_of(state: Path) -> int:
    """Returns how many steps were done when a state was saved."""
    return int(state.name.removeprefix("step-"))


def load_state(state: Path, model: LaMEModel) -> Moments:
    """Loads a state's weights into the model, and returns the optimizer's moments by parameter.

    Args:
        state: a folder from `complete_states`.
        model: the model, not sharded yet.

    Raises:
        BundleError: a file of the state is missing, truncated or of another model.
    """
    weights = read_tensors(state, "model")
    recorded = read_tensors(state, "optimizer")
    fixed = state.parent / "fixed.safetensors"
    if os.path.lexists(fixed):
        weights |= read_tensors(state.parent, "fixed")
    # it raises if a weight is missing, so a fixed.safetensors that was removed is noticed
    load_weights(model, weights, str(state))
    moments: Moments = {}
    for name, value in recorded.items():
        # from the right: names of parameters come from transformers and PEFT
        parameter, _, key = name.rpartition("|")
        moments.setdefault(parameter, {})[key] = value
    _check_moments(state, moments, dict(model.named_parameters()))
    return moments


def _check_moments(state: Path, moments: Moments, parameters: dict[str, Parameter]) -> None:
    """Raises `BundleError` unless every moment is of a parameter, and each of these has all.

    A moment of another shape would otherwise end the first step with an error of PyTorch, and one
    that is missing would make the optimizer start anew.
    """
    for parameter, values in moments.items():
        for key, value in values.items():
            # the count of steps is a scalar, a moment has the shape of its parameter
            shape = torch.Size() if key == "step" else None
            if parameter in parameters and key in ("exp_avg", "exp_avg_sq"):
                shape = parameters[parameter].shape
            if parameter not in parameters or value.shape != shape:
                raise BundleError(
                    f"{state}: the optimizer's {shown(f'{parameter}|{key}')} fits no weight of the "
                    "model; remove this state, or train again in another folder"
                )
        if set(values) != MOMENTS:
            raise BundleError(
                f"{state}: the optimizer's state of {parameter} is incomplete; "
                "remove this state, or train again in another folder"
            )


def read_tensors(state: Path, name: str) -> dict[str, Tensor]:
    """Returns the tensors of `STATE/NAME.safetensors`.

    Raises:
        BundleError: the file is missing, damaged or not a regular file, or a tensor in it holds
            anything but finite floating-point numbers.
    """
    try:
        path = state / f"{name}.safetensors"
        # safetensors would wait forever for a pipe
        open_regular(path).close()
        tensors: dict[str, Tensor] = load_file(path)
    # safetensors wraps what is wrong with a header in errors of several classes
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise BundleError(
            f"{state}: cannot be read ({name}.safetensors: {shown(first_line(error), 160)}); "
            "remove this state, or train again in another folder"
        ) from None
    _check_numbers(state, name, tensors)
    return tensors


def _check_numbers(state: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Raises `BundleError` if a tensor holds anything but finite floating-point numbers.

    Otherwise the resumed run would stop at a loss that is not finite, and blame the recipe.
    """
    for tensor, value in tensors.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise BundleError(
                f"{state}: {shown(tensor)} in {name}.safetensors holds values that are not "
                "finite floating-point numbers; remove this state, or train again in another folder"
            )


def restore_moments(model: LaMEModel, optimizer: torch.optim.AdamW, moments: Moments) -> None:
    """Gives the moments back to the optimizer of the stage that they were saved in.

    Args:
        model: the model, sharded or not; its parameters' moments are sharded alike.
        optimizer: the stage's fresh optimizer.
        moments: from `load_state`.
    """
    for name, parameter in model.named_parameters():
        if name in moments:
            optimizer.state[parameter] = {
                # the count of steps is a scalar: never sharded, and on the device for a fused AdamW
                key: shard_like(value, parameter) if value.ndim else value.to(parameter.device)
                for key, value in moments[name].items()
            }


def remove_states(folder: Path) -> None:
    """Removes all states, once the model is complete."""
    shutil.rmtree(folder / "state", ignore_errors=True)
