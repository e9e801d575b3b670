"""Inputs to vectors for a whole task: each distinct input once, from the cache where it is there, in whole shards otherwise.

A text that is too long is cut, as the benchmarks do, and counted; an input that cannot be embedded at all (a damaged
picture, nothing in it) is named with the encoder's reason instead of stopping the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lame_runtime.contract.prompts import Input
from lame_runtime.encoder import MAX_BATCH, Encoder
from lame_runtime.errors import InputError

from lame_training.suites.cache import EmbeddingCache
from lame_training.suites.identity import ContentHasher, digest

SHARD_BATCHES = 16


@dataclass
class Counts:
    """What embedding a task took."""

    embedded: int = 0
    from_cache: int = 0
    cut: int = 0
    """Inputs whose text was too long."""


@dataclass(frozen=True)
class Keyed:
    """Inputs and the keys of their embeddings; unusable ones have a reason instead."""

    items: list[Input]
    keys: list[str]
    role: str
    bad: dict[int, str] = field(default_factory=dict)


class Embedder:
    """Embeds tasks with one model.

    Args:
        encoder: the model.
        cache: of this model.
        hasher: of the data.
        batch_size: inputs per run of the graph.
        max_pixels: of a picture or frame, instead of the contract's.

    Raises:
        InputError: a batch size or a budget that cannot be.
    """

    def __init__(
        self, encoder: Encoder, cache: EmbeddingCache, hasher: ContentHasher, batch_size: int = 32, max_pixels: int | None = None
    ) -> None:
        if not 1 <= batch_size <= MAX_BATCH:
            raise InputError(f"--batch-size {batch_size}: use 1 to {MAX_BATCH}")
        self.encoder = encoder
        self.cache = cache
        self.hasher = hasher
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self._preparer = encoder.preparer.with_budget(max_pixels)

    def keyed(self, items: Sequence[Input], role: str) -> Keyed:
        """The inputs with the hash of role, budget and content; files that cannot be read are named."""
        found = Keyed(list(items), [], role)
        for index, item in enumerate(items):
            try:
                found.keys.append(digest([role, self.max_pixels, self.hasher.key(item)]))
            except ValueError as error:
                found.keys.append("")
                found.bad[index] = str(error)
        return found

    def embed(self, keyed: Keyed, counts: Counts, progress: Any) -> None:
        """Embeds what the cache does not hold yet; inputs that cannot be embedded go to `keyed.bad`.

        Args:
            keyed: the inputs.
            counts: raised by what is done.
            progress: a tqdm bar, moved on by one per distinct input.
        """
        fresh: dict[str, Input] = {}
        known = set()
        for index, (key, item) in enumerate(zip(keyed.keys, keyed.items, strict=True)):
            if index in keyed.bad:
                continue
            if key in self.cache:
                known.add(key)
            else:
                fresh.setdefault(key, item)
        counts.from_cache += len(known)
        progress.update(len(known))
        reasons: dict[str, str] = {}
        todo = list(fresh)
        size = self.batch_size * SHARD_BATCHES
        for start in range(0, len(todo), size):
            chunk = todo[start : start + size]
            reasons |= self._shard(chunk, [fresh[key] for key in chunk], keyed.role)
            progress.update(len(chunk))
        counts.embedded += len(todo) - len(reasons)
        counts.cut += sum(self.cache.was_cut(key) for key in {*known, *todo})
        keyed.bad.update({index: reasons[key] for index, key in enumerate(keyed.keys) if key in reasons})

    def _shard(self, keys: list[str], items: list[Input], role: str) -> dict[str, str]:
        """Embeds and stores a shard; returns reasons by key for what could not be."""
        try:
            self.cache.put(keys, self._encode(items, role, truncate=False), np.zeros(len(keys), dtype=bool))
            return {}
        except InputError as error:
            if not str(error).startswith("input "):  # a batch size, a full disk
                raise
        reasons: dict[str, str] = {}
        lots: dict[bool, list[int]] = {False: [], True: []}
        for index, item in enumerate(items):
            try:
                lots[self._must_cut(item, role)].append(index)
            except InputError as error:
                reasons[keys[index]] = str(error)
        for cut, chosen in lots.items():
            if chosen:
                vectors = self._encode([items[index] for index in chosen], role, truncate=cut)
                self.cache.put([keys[index] for index in chosen], vectors, np.full(len(chosen), cut))
        return reasons

    def _must_cut(self, item: Input, role: str) -> bool:
        """Whether the input is embedded only with its text cut; raises `InputError` where it cannot be at all."""
        try:
            self._preparer(item, role)
        except InputError:
            self._preparer(item, role, truncate=True)
            return True
        return False

    def _encode(self, items: list[Input], role: str, *, truncate: bool) -> Any:
        return self.encoder.encode(items, role=role, batch_size=self.batch_size, max_pixels=self.max_pixels, truncate=truncate)
