"""Rows of a step → prepared inputs, and chunk by chunk → tensors: the one place where the contract's arrays become tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from lame_runtime.backends.base import Batch
from lame_runtime.batching import assemble, plan_batches
from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.contract.rules import Contract
from lame_runtime.errors import InputError
from lame_runtime.retrieval import Key, key
from torch import Tensor

from lame_training.data import Pair
from lame_training.losses import IGNORE
from lame_training.model import ModelInputs

MAX_TARGET = 256
"""Tokens of a text that L_rec reconstructs (T ≤ 256 in the method); the rest of a longer text is left out."""


@dataclass(frozen=True)
class Row:
    """A row and where it comes from."""

    data_set: str
    number: int
    pair: Pair


@dataclass(frozen=True)
class Dropped:
    """A row, or one of its hard negatives, that could not be prepared and was left out."""

    data_set: str
    number: int
    reason: str


@dataclass(frozen=True)
class Targets:
    """The texts that a chunk's items decode; R may be 0."""

    row_R: Tensor
    """Row of the chunk whose reason tokens decode the text."""
    ids_RT: Tensor
    """Right-padded ids of the texts."""
    label_RT: Tensor
    """(R, T + 1): the same with the end token, `IGNORE` where padded."""


@dataclass(frozen=True)
class Chunk:
    """Inputs of one forward pass. Their arrays are laid out when asked for: patches take eight times the memory of pixels."""

    items: Tensor
    """Places among the step's items."""
    prepared: list[Prepared]
    targets: Targets
    contract: Contract

    def inputs(self, device: torch.device, *, always_picture: bool = False) -> ModelInputs:
        """The chunk's tensors.

        Args:
            device: where they go.
            always_picture: add a grey picture that nothing reads where there is none, so that the vision tower runs in every process.
        """
        found = to_model_inputs(assemble(self.prepared, self.contract), device)
        if found.pixel_patches is not None or not always_picture:
            return found
        images = self.contract.images
        side, width = images.merge_size, 3 * images.temporal_patch_size * images.patch_size**2
        grid = torch.tensor([(1, side, side)], device=device)
        return replace(found, pixel_patches=torch.zeros(side * side, width, device=device), grid_thw=grid)


@dataclass(frozen=True)
class Step:
    """One step's rows. An input that occurs in several rows is embedded once: it is one item."""

    chunks: list[Chunk]
    key_I: Tensor
    """int64 per item, equal where two items (of different processes) are the same input."""
    query_N: Tensor
    """Item of each row's query."""
    positive_N: Tensor
    """Item of each row's positive."""
    negative_H: Tensor
    """Items of hard negatives."""
    dropped: list[Dropped]


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
        threads: pictures decoded and resized at a time; 0 does it in the caller's thread.
    """

    def __init__(self, preparer: Preparer, end_id: int, chunk: int, cache_mib: int, threads: int = 0) -> None:
        self.preparer = preparer
        self.end_id = end_id
        self.chunk = chunk
        self._cache: dict[Key, Prepared] = {}
        self._free = cache_mib << 20
        self._pool = ThreadPoolExecutor(threads, "prepare") if threads else None

    def __call__(self, rows: Sequence[Row], *, contrastive: bool, reconstructing: bool) -> Step:
        """Lays out one step. Rows whose query or positive cannot be prepared are left out and named in `Step.dropped`.

        Args:
            rows: the rows.
            contrastive: embed queries, positives and hard negatives; without it only what decodes a text is embedded.
            reconstructing: include the reconstruction targets.
        """
        needed: dict[Key, Input] = {}
        for row in rows:
            for item, role, text in _sides(row.pair):
                if contrastive or (reconstructing and text is not None):
                    instructed = self._instructed(item, role)
                    needed.setdefault(key(instructed), instructed)
            for item in row.pair.negatives if contrastive else ():
                instructed = self._instructed(item, "document")
                needed.setdefault(key(instructed), instructed)
        prepared = self._prepare(needed)

        items: dict[Key, int] = {}
        dropped: list[Dropped] = []
        queries, positives, negatives = [], [], []
        decoding: dict[int, list[list[int]]] = {}
        for row in rows:
            pair = row.pair
            sides = [(key(self._instructed(item, role)), text) for item, role, text in _sides(pair)]
            used = [(each, text) for each, text in sides if each in needed]
            if faults := [each for each, _ in used if not isinstance(prepared[each], Prepared)]:
                dropped.append(Dropped(row.data_set, row.number, str(prepared[faults[0]])))
                continue
            placed = [items.setdefault(each, len(items)) for each, _ in used]
            if contrastive:
                queries.append(placed[0])
                positives.append(placed[1])
                for item in pair.negatives:
                    each = key(self._instructed(item, "document"))
                    if isinstance(prepared[each], Prepared):
                        negatives.append(items.setdefault(each, len(items)))
                    else:
                        dropped.append(Dropped(row.data_set, row.number, f"a hard negative: {prepared[each]}"))
            for place, (_, text) in zip(placed, used, strict=True):
                if reconstructing and text is not None:
                    decoding.setdefault(place, []).append(self.preparer.tokenizer.encode(text)[:MAX_TARGET])
        return Step(
            self._chunks([found for each in items if isinstance(found := prepared[each], Prepared)], decoding),
            torch.tensor([_digest(each) for each in items], dtype=torch.int64),
            torch.tensor(queries, dtype=torch.int64),
            torch.tensor(positives, dtype=torch.int64),
            torch.tensor(negatives, dtype=torch.int64),
            dropped,
        )

    def filler(self) -> Chunk:
        """A chunk of one short text, which belongs to no step."""
        return Chunk(torch.tensor([0]), [self.prepare(Input(text="."), "document")], self._targets([]), self.preparer.contract)

    def prepare(self, item: Input, role: str) -> Prepared:
        """One input, from memory where it was prepared before; raises `InputError`."""
        instructed = self._instructed(item, role)
        (found,) = self._prepare({key(instructed): instructed}).values()
        if isinstance(found, InputError):
            raise found
        return found

    def _chunks(self, prepared: list[Prepared], decoding: dict[int, list[list[int]]]) -> list[Chunk]:
        chunks = []
        for chosen in plan_batches(prepared, self.chunk):
            texts = [(row, ids) for row, item in enumerate(chosen) for ids in decoding.get(item, ())]
            chunks.append(Chunk(torch.tensor(chosen), [prepared[i] for i in chosen], self._targets(texts), self.preparer.contract))
        return chunks

    def _instructed(self, item: Input, role: str) -> Input:
        """The input with its role's instruction written out, as inference would apply it."""
        return item if item.instruction is not None else replace(item, instruction=self.preparer.contract.prompt.roles[role])

    def _prepare(self, needed: dict[Key, Input]) -> dict[Key, Prepared | InputError]:
        fresh = [(each, item) for each, item in needed.items() if each not in self._cache]
        run = map if self._pool is None else self._pool.map
        found: dict[Key, Prepared | InputError] = {each: self._cache[each] for each in needed if each in self._cache}
        for (each, _), result in zip(fresh, run(self._attempt, [item for _, item in fresh]), strict=True):
            found[each] = result
            if isinstance(result, Prepared):
                size = 1024 + sum(visual.frames.nbytes for visual in result.visuals)
                if size <= self._free:
                    self._free -= size
                    self._cache[each] = result
        return found

    def _attempt(self, item: Input) -> Prepared | InputError:
        try:
            return self.preparer(item)
        except InputError as error:
            named = [part.source for part in item.parts if isinstance(part, Picture | Video) and isinstance(part.source, str)]
            return error if not named or named[0] in str(error) else InputError(f"{named[0]}: {error}")

    def _targets(self, texts: list[tuple[int, list[int]]]) -> Targets:
        longest = max((len(ids) for _, ids in texts), default=0)
        ids_RT = torch.full((len(texts), longest), self.end_id, dtype=torch.int64)
        label_RT = torch.full((len(texts), longest + 1), IGNORE, dtype=torch.int64)
        for number, (_, ids) in enumerate(texts):
            ids_RT[number, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
            label_RT[number, : len(ids) + 1] = torch.tensor([*ids, self.end_id])
        return Targets(torch.tensor([row for row, _ in texts], dtype=torch.int64), ids_RT, label_RT)


def _sides(pair: Pair) -> tuple[tuple[Input, str, str | None], ...]:
    """Query and positive, each with its role and the text its reason tokens decode."""
    return (pair.query, "query", pair.query_decodes), (pair.positive, "document", pair.positive_decodes)


def _digest(item: Key) -> int:
    """A 64-bit name of an input, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(item).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True)


def ahead(make: Callable[[int], Step], numbers: Iterable[int]) -> Iterator[Step]:
    """`make(number)` for each number, the next one being made in a thread while the caller works on one."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting = None
        for number in numbers:
            following = thread.submit(make, number)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
