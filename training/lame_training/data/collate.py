"""Turns the rows that a step draws into a `StepBatch`: lays out its items, chunks and texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from lame_runtime.batching import plan_batches
from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input, InputKey, input_key
from lame_runtime.errors import InputError
from torch import Tensor

from lame_training.data.prepared_cache import PreparedCache
from lame_training.data.step_batch import BatchRow, Chunk, Dropped, StepBatch, Targets
from lame_training.objective.losses import IGNORE

T = TypeVar("T")
MAX_TARGET = 256
"""Tokens of a text that L_rec reconstructs (T ≤ 256 in the method). Longer texts are cut."""


@dataclass(frozen=True)
class _KeyedInput:
    """An input with its role's instruction, its identity, and the text that it decodes."""

    key: InputKey
    item: Input
    decodes: str | None = None


@dataclass(frozen=True)
class _KeyedRow:
    """A row as the inputs that have to be embedded for it."""

    row: BatchRow
    sides: tuple[_KeyedInput, _KeyedInput]
    """The query and the positive."""
    negatives: tuple[_KeyedInput, ...]


@dataclass
class _StepLayout:
    """The items of a step, in the order in which rows first use them, and what refers to them."""

    prepared: Mapping[InputKey, Prepared | InputError]
    """The inputs that the step needs, or why they could not be prepared."""
    items: dict[InputKey, int] = field(default_factory=dict)
    queries: list[int] = field(default_factory=list)
    positives: list[int] = field(default_factory=list)
    negatives: list[int] = field(default_factory=list)
    texts: dict[int, list[str]] = field(default_factory=dict)
    """Texts to decode, by item."""
    dropped: list[Dropped] = field(default_factory=list)

    def add(self, keyed: _KeyedRow, *, contrastive: bool, reconstructing: bool) -> None:
        """Adds a row, unless its query or positive could not be prepared."""
        # Without L_nce, a side that decodes nothing is not embedded.
        used = [side for side in keyed.sides if side.key in self.prepared]
        for side in used:
            if isinstance(self.prepared[side.key], InputError):
                self._drop(keyed.row, str(self.prepared[side.key]))
                return
        places = [self._place(side) for side in used]
        if contrastive:  # then both sides are in use
            self.queries.append(places[0])
            self.positives.append(places[1])
            for negative in keyed.negatives:
                # A row without one of its hard negatives is still worth training on.
                if isinstance(self.prepared[negative.key], InputError):
                    self._drop(keyed.row, f"a hard negative: {self.prepared[negative.key]}")
                else:
                    self.negatives.append(self._place(negative))
        if reconstructing:
            for place, side in zip(places, used, strict=True):
                if side.decodes is not None:
                    self.texts.setdefault(place, []).append(side.decodes)

    def prepared_items(self) -> list[Prepared]:
        """Returns the items' inputs in the order of the items."""
        inputs = [self.prepared[key] for key in self.items]
        return [item for item in inputs if isinstance(item, Prepared)]  # all: `add` saw to it

    def _place(self, keyed: _KeyedInput) -> int:
        return self.items.setdefault(keyed.key, len(self.items))

    def _drop(self, row: BatchRow, reason: str) -> None:
        self.dropped.append(Dropped(row.data_set, row.number, reason))


class Collator:
    """Turns rows into a `StepBatch`.

    Args:
        preparer: applies the contract to inputs.
        end_id: the id of the token that ends a reconstructed text.
        chunk: number of inputs per forward pass.
        cache_mib: size of the cache of prepared inputs for later steps, in MiB.
        threads: number of pictures that are decoded and resized at a time. 0 uses the caller's
        thread.
    """

    def __init__(
        self, preparer: Preparer, end_id: int, chunk: int, cache_mib: int, threads: int = 0
    ) -> None:
        self.preparer = preparer
        self.end_id = end_id
        self.chunk = chunk
        self._cache = PreparedCache(preparer, cache_mib, threads)

    def __call__(
        self, rows: Sequence[BatchRow], *, contrastive: bool, reconstructing: bool
    ) -> StepBatch:
        """Lays out one step.

        Rows whose query or positive cannot be prepared are left out and listed in
        `StepBatch.dropped`, and so are single hard negatives.

        Args:
            rows: the rows of the step.
            contrastive: embed queries, positives and hard negatives. Otherwise only the inputs that
                decode a text are embedded.
            reconstructing: include the reconstruction targets.
        """
        # First everything that the step needs, so that the threads get all inputs at once.
        keyed_rows = [self._keyed(row, with_negatives=contrastive) for row in rows]
        needed: dict[InputKey, Input] = {}
        for keyed in keyed_rows:
            for side in keyed.sides:
                if contrastive or (reconstructing and side.decodes is not None):
                    needed.setdefault(side.key, side.item)
            for negative in keyed.negatives:
                needed.setdefault(negative.key, negative.item)
        # Items are numbered in a second pass, when it is known which rows have to be left out.
        layout = _StepLayout(self._cache.prepare_all(needed))
        for keyed in keyed_rows:
            layout.add(keyed, contrastive=contrastive, reconstructing=reconstructing)
        return StepBatch(
            chunks=self._chunks(layout),
            key_I=_integers(_digest(key) for key in layout.items),
            query_N=_integers(layout.queries),
            positive_N=_integers(layout.positives),
            negative_H=_integers(layout.negatives),
            dropped=layout.dropped,
        )

    def filler(self) -> Chunk:
        """Returns a chunk of one short text that belongs to no step.

        A process that has run out of chunks sends it through the model, so that the collective
        operations of sharded parameters stay matched.
        """
        # Any text will do: its embedding is not used.
        prepared = [self.prepare(Input(text="."), "document")]
        return Chunk(torch.tensor([0]), prepared, self._targets([]), self.preparer.contract)

    def prepare(self, item: Input, role: str) -> Prepared:
        """Prepares one input, or takes it from the cache; raises `InputError` if it cannot."""
        instructed = self._instructed(item, role)
        (result,) = self._cache.prepare_all({input_key(instructed): instructed}).values()
        if isinstance(result, InputError):
            raise result
        return result

    def _keyed(self, row: BatchRow, *, with_negatives: bool) -> _KeyedRow:
        pair = row.pair
        query = self._keyed_input(pair.query, "query", pair.query_decodes)
        positive = self._keyed_input(pair.positive, "document", pair.positive_decodes)
        # Keys of embedded pictures are hashes of their bytes, so none is computed in vain.
        negatives = pair.negatives if with_negatives else ()
        return _KeyedRow(
            row,
            (query, positive),
            tuple(self._keyed_input(negative, "document") for negative in negatives),
        )

    def _keyed_input(self, item: Input, role: str, decodes: str | None = None) -> _KeyedInput:
        instructed = self._instructed(item, role)
        return _KeyedInput(input_key(instructed), instructed, decodes)

    def _instructed(self, item: Input, role: str) -> Input:
        """Writes out the instruction of the input's role, as inference would apply it."""
        # Written out, it is part of the key: a text may be a query here and a document there.
        if item.instruction is not None:
            return item
        return replace(item, instruction=self.preparer.contract.prompt.roles[role])

    def _chunks(self, layout: _StepLayout) -> list[Chunk]:
        prepared = layout.prepared_items()
        chunks = []
        # Inputs of similar length share a chunk, so that little is padded.
        for items in plan_batches(prepared, self.chunk):
            targets = self._targets(
                [
                    (row, text)
                    for row, item in enumerate(items)
                    for text in layout.texts.get(item, ())
                ]
            )
            chunk = Chunk(
                torch.tensor(items),
                [prepared[item] for item in items],
                targets,
                self.preparer.contract,
            )
            chunks.append(chunk)
        return chunks

    def _targets(self, texts: list[tuple[int, str]]) -> Targets:
        """Tokenizes and pads texts, each given with its row of the chunk."""
        encoded = [self.preparer.tokenizer.encode(text)[:MAX_TARGET] for _, text in texts]
        longest = max((len(ids) for ids in encoded), default=0)
        # The padding's value does not matter: attention is causal, and its labels are ignored.
        ids_RT = torch.full((len(texts), longest), self.end_id, dtype=torch.int64)
        label_RT = torch.full((len(texts), longest + 1), IGNORE, dtype=torch.int64)
        for number, ids in enumerate(encoded):
            ids_RT[number, : len(ids)] = _integers(ids)
            # One label more than ids: the last id predicts the end token.
            label_RT[number, : len(ids) + 1] = _integers([*ids, self.end_id])
        return Targets(_integers(row for row, _ in texts), ids_RT, label_RT)


def _integers(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _digest(key: InputKey) -> int:
    """Hashes an input's key to 64 bits, equally in every process (unlike `hash` of a str)."""
    # `repr` quotes the parts of a key, so different keys never give the same bytes.
    encoded = repr(key).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(encoded, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def prefetch(make: Callable[[int], T], numbers: Iterable[int]) -> Iterator[T]:
    """Yields `make(number)` for each number; makes the next one while the caller works on one."""
    with ThreadPoolExecutor(1, "prefetch") as thread:
        # One batch ahead, not more: a batch of prepared pictures can take gigabytes.
        pending = None
        for number in numbers:
            following = thread.submit(make, number)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
