"""The batch of one training step: which inputs it has, and the chunks that go through the model.

Inputs stay pictures and ids until their chunk is needed. `to_model_inputs` is the one place where
the contract's NumPy arrays become tensors.

Axes, as letters at the end of a tensor's name: I items of a step (distinct inputs), N rows of a
step, H hard negatives, R texts to decode, T tokens of the longest text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from lame_runtime.contract.batch import Batch, assemble
from lame_runtime.contract.preparer import Prepared
from lame_runtime.contract.rules import Contract
from torch import Tensor

from lame_training.data import Pair
from lame_training.model.components import ModelInputs


@dataclass(frozen=True)
class BatchRow:
    """A training example and its place in the data."""

    data_set: str
    # With the data set's name it identifies a row in `skipped.jsonl`.
    number: int
    """Index among the usable rows of the data set."""
    pair: Pair


@dataclass(frozen=True)
class Dropped:
    """A row, or one of its hard negatives, that could not be prepared and was left out."""

    data_set: str
    number: int
    """Index among the usable rows of the data set; -1 for a row that never was usable."""
    reason: str
    place: str = ""
    """File and line of the row, if they are known."""


@dataclass(frozen=True)
class Targets:
    """The texts that a chunk's items decode. There may be none (R = 0)."""

    row_R: Tensor
    """int64: row of the chunk whose reason tokens decode the text."""
    ids_RT: Tensor
    """int64: right-padded ids of the texts."""
    label_RT: Tensor
    """int64 (R, T + 1): the same ids followed by the end token, `IGNORE` at padding."""


@dataclass(frozen=True)
class Chunk:
    """The inputs of one forward pass.

    Their arrays are laid out by `inputs`, not in advance: patches take eight times the memory of
    pixels.
    """

    items: Tensor
    """int64 (B,): the inputs' places among the step's items."""
    prepared: list[Prepared]
    targets: Targets
    contract: Contract

    def inputs(self, device: torch.device, *, always_picture: bool = False) -> ModelInputs:
        """Returns the chunk's tensors.

        Args:
            device: where the tensors are placed.
            always_picture: add one picture that no token reads to a chunk without pictures.
        """
        inputs = to_model_inputs(assemble(self.prepared, self.contract), device)
        if inputs.pixel_patches is not None or not always_picture:
            return inputs
        # With sharded parameters (FSDP), every process has to run the vision tower if one of them
        # does: its all-gathers are collective. The smallest picture has one merged token.
        images = self.contract.images
        side = images.merge_size
        grid = torch.tensor([(1, side, side)], device=device)
        patches = torch.zeros(side * side, images.patch_dim, device=device)
        return replace(inputs, pixel_patches=patches, grid_thw=grid)


@dataclass(frozen=True)
class StepBatch:
    """The rows of one step. An input that occurs in several rows is one item, embedded once."""

    chunks: list[Chunk]
    # Keys, not items, are compared between processes: each numbers its items on its own.
    key_I: Tensor
    """int64: equal if two items, also of different processes, are the same input."""
    query_N: Tensor
    """int64: item of each row's query."""
    positive_N: Tensor
    """int64: item of each row's positive."""
    # Without rows: a hard negative of one row serves as a candidate for all of them.
    negative_H: Tensor
    """int64: items of hard negatives."""
    dropped: list[Dropped]
    """Rows and hard negatives that were left out."""


def to_model_inputs(batch: Batch, device: torch.device | str = "cpu") -> ModelInputs:
    """Converts a batch's arrays to tensors.

    The batch holds pictures by groups of one grid; the backbone takes the patches of all pictures
    in one packed tensor. The order stays, so `feature_index` needs no change.
    """
    patches, grids = None, None
    if batch.groups:
        # Groups differ in patches per picture, so each is flattened to (patches, patch_dim) first.
        flat = [group.pixel_patches().reshape(-1, group.images.patch_dim) for group in batch.groups]
        patches = torch.from_numpy(np.concatenate(flat)).to(device)
        # One temporal patch per entry: the contract cuts videos into them, as the graphs do.
        rows = [(1, *group.grid) for group in batch.groups for _ in range(group.pictures)]
        grids = torch.tensor(rows, dtype=torch.int64, device=device)
    return ModelInputs(
        torch.from_numpy(batch.input_ids).to(device),
        torch.from_numpy(batch.feature_index).to(device),
        torch.from_numpy(batch.position_ids).to(device),
        torch.from_numpy(batch.embed_index).to(device),
        patches,
        grids,
    )
