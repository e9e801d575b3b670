"""Rows of a step → tensors: the one place where the contract's arrays become tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lame_runtime.backends.base import Batch
from lame_runtime.batching import assemble, plan_batches
from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError
from lame_runtime.retrieval import Key, key
from torch import Tensor

from lame_training.data import Pair
from lame_training.losses import IGNORE
from lame_training.model import ModelInputs

MAX_TARGET = 256
"""Tokens of a text that L_rec reconstructs (T ≤ 256 in the method); the rest of a longer text is left out."""


@dataclass(frozen=True)
class Chunk:
    """Inputs of one forward pass, and their places among the step's distinct inputs."""

    inputs: ModelInputs
    items: Tensor


@dataclass(frozen=True)
class Step:
    """One step's rows. An input that occurs in several rows is embedded once."""

    chunks: list[Chunk]
    query_N: Tensor
    """Item of each row's query."""
    candidate_M: Tensor
    """Items that are a positive of some row."""
    positive_N: Tensor
    """Each row's positive, as an index into `candidate_M`."""
    known_false_NM: Tensor
    """Candidates that are no negatives of the row: a positive of another row with the same query, and the query itself."""
    decoding_R: Tensor
    """Items whose reason tokens decode a text."""
    target_ids_RT: Tensor
    """Right-padded ids of those texts."""
    label_ids_RT: Tensor
    """(R, T + 1): the same with the end token, `IGNORE` where padded."""


def to_model_inputs(batch: Batch, device: torch.device | str = "cpu") -> ModelInputs:
    """A batch's arrays as tensors; picture groups become the backbone's packed form, in the same order."""
    patches, grids = None, None
    if batch.groups:
        flat = [group.pixel_patches.reshape(-1, group.pixel_patches.shape[-1]) for group in batch.groups]
        patches = torch.from_numpy(np.concatenate(flat)).to(device)
        rows = [(1, *group.grid) for group in batch.groups for _ in range(len(group.pixel_patches))]
        grids = torch.tensor(rows, dtype=torch.int64, device=device)
    return ModelInputs(
        torch.from_numpy(batch.input_ids).to(device),
        torch.from_numpy(batch.feature_index).to(device),
        torch.from_numpy(batch.position_ids).to(device),
        torch.from_numpy(batch.embed_index).to(device),
        patches,
        grids,
    )


class Collator:
    """Turns rows into a `Step`.

    Args:
        preparer: the contract.
        end_id: the id that ends a reconstructed text.
        chunk: inputs per forward pass.
        cache_mib: how much of what was prepared is kept for later steps.
    """

    def __init__(self, preparer: Preparer, end_id: int, chunk: int, cache_mib: int) -> None:
        self.preparer = preparer
        self.end_id = end_id
        self.chunk = chunk
        self._cache: dict[Key, Prepared] = {}
        self._free = cache_mib << 20

    def __call__(self, pairs: Sequence[Pair], *, contrastive: bool, reconstructing: bool) -> Step:
        """Lays out one step.

        Args:
            pairs: the rows.
            contrastive: embed queries and positives; without it only what decodes a text is embedded.
            reconstructing: include the reconstruction targets.
        """
        items: dict[Key, tuple[int, Input]] = {}

        def place(item: Input, role: str) -> int:
            item = self._instructed(item, role)
            return items.setdefault(key(item), (len(items), item))[0]

        queries, positives, decodings, targets = [], [], [], []
        for pair in pairs:
            if contrastive:
                queries.append(place(pair.query, "query"))
                positives.append(place(pair.positive, "document"))
            if reconstructing:
                for item, role, text in (
                    (pair.query, "query", pair.query_decodes),
                    (pair.positive, "document", pair.positive_decodes),
                ):
                    if text is not None:
                        decodings.append(place(item, role))
                        targets.append(self.preparer.tokenizer.encode(text)[:MAX_TARGET])
        if not items:
            raise InputError("a step drew rows that decode no text: give a stage without L_nce only tasks with a target_side")
        candidates = sorted(set(positives))
        column = {item: index for index, item in enumerate(candidates)}
        right_for: dict[int, set[int]] = {}
        for query, positive in zip(queries, positives, strict=True):
            right_for.setdefault(query, set()).add(column[positive])
        known_false = torch.zeros(len(queries), len(candidates), dtype=torch.bool)
        for row, query in enumerate(queries):
            known_false[row, list(right_for[query])] = True
            if query in column:
                known_false[row, column[query]] = True
            known_false[row, column[positives[row]]] = False
        target_ids, label_ids = self._targets(targets)
        return Step(
            self._chunks([item for _, item in items.values()]),
            torch.tensor(queries, dtype=torch.int64),
            torch.tensor(candidates, dtype=torch.int64),
            torch.tensor([column[positive] for positive in positives], dtype=torch.int64),
            known_false,
            torch.tensor(decodings, dtype=torch.int64),
            target_ids,
            label_ids,
        )

    def _chunks(self, items: list[Input]) -> list[Chunk]:
        prepared = [self._prepare(item) for item in items]
        return [
            Chunk(to_model_inputs(assemble([prepared[i] for i in chosen], self.preparer.contract)), torch.tensor(chosen))
            for chosen in plan_batches(prepared, self.chunk)
        ]

    def _instructed(self, item: Input, role: str) -> Input:
        """The input with its role's instruction written out, as inference would apply it."""
        return item if item.instruction is not None else replace(item, instruction=self.preparer.contract.prompt.roles[role])

    def _prepare(self, item: Input) -> Prepared:
        if (found := self._cache.get(key(item))) is not None:
            return found
        prepared = self.preparer(item)
        size = 1024 + sum(visual.frames.nbytes for visual in prepared.visuals)
        if size <= self._free:
            self._free -= size
            self._cache[key(item)] = prepared
        return prepared

    def _targets(self, targets: list[list[int]]) -> tuple[Tensor, Tensor]:
        longest = max((len(ids) for ids in targets), default=0)
        ids_RT = torch.full((len(targets), longest), self.end_id, dtype=torch.int64)
        labels_RT = torch.full((len(targets), longest + 1), IGNORE, dtype=torch.int64)
        for row, ids in enumerate(targets):
            ids_RT[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
            labels_RT[row, : len(ids) + 1] = torch.tensor([*ids, self.end_id])
        return ids_RT, labels_RT
