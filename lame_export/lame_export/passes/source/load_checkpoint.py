"""Loads the checkpoint, and copies contract and tokenizer into the bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from lame_runtime.contract.rules import OLDEST_CHECKPOINT_VERSION, Contract
from lame_runtime.errors import BundleError, UsageError
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular

from lame_export.memory_plan import plan_memory
from lame_export.model_facts import model_widths
from lame_export.passes.base import Pass
from lame_export.state import ExportState

SHARED_FILES = ("contract.json", "tokenizer.json")
"""Files that checkpoint and bundle have in common."""


class LoadCheckpoint(Pass):
    """Loads the model without its decoder, and wraps it in the runtime's `Encoder`."""

    name = "load"
    writes = ("model", "reference", "memory")

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of contract and tokenizer in the bundle."""
        return [state.folder / name for name in SHARED_FILES]

    def run(self, state: ExportState) -> None:
        """Loads the model and copies the files.

        Raises:
            UsageError: the checkpoint was trained with limits, and others are given.
        """
        _check_limits(state)
        read_model(state)
        for name in SHARED_FILES:
            (state.folder / name).write_bytes(shared_content(state.checkpoint / name))


def _check_limits(state: ExportState) -> None:
    """Raises `UsageError` if limits are given for a model that was not imported."""
    for name in ("max_length", "max_pixels"):
        if getattr(state.options, name) is not None and state.published is None:
            raise UsageError(
                f"`{name}` is for published embedders: the limits of {state.checkpoint} are "
                "those that it was trained with"
            )


def shared_content(path: Path) -> bytes:
    """Returns one of `SHARED_FILES` of a checkpoint, as the bundle has it.

    It is the file byte for byte, since verification compares bytes, unless the contract is of an
    older version that checkpoints may have. The bundle then gets it in the current version.

    Raises:
        BundleError: the file cannot be read, or is no contract.
    """
    content = read_shared(path)
    if path.name != "contract.json":
        return content
    contract = Contract.from_json(content, str(path), oldest=OLDEST_CHECKPOINT_VERSION)
    # the version alone may differ: layout and order of the fields stay the user's otherwise
    is_current = json.loads(content)["contract_version"] == contract.contract_version
    return content if is_current else contract.to_json().encode()


def read_shared(path: Path) -> bytes:
    """Returns the content of one of `SHARED_FILES`; raises `BundleError`."""
    try:
        return read_regular(path, MAX_JSON_BYTES)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); copy it again") from None


def read_model(state: ExportState) -> None:
    """Sets `model` and `reference` from the checkpoint, and `memory` from the model.

    Raises:
        BundleError: the checkpoint cannot be used.
        ExportError: the export does not fit in memory.
    """
    # deferred: PyTorch and transformers take seconds to import
    from lame_training.model.torch_backend import load_encoder_and_model

    state.reference, state.model = load_encoder_and_model(state.checkpoint)
    # the first thing that is done with the model: nothing has been computed yet
    state.memory = plan_memory(
        model_widths(state.model),
        max(weight.numel() for weight in state.model.parameters()),
        state.reference.preparer.contract,
        state.options.memory,
    )
