"""Embeds all inputs of a task: each distinct input once, from the cache if it is there.

A text that is too long is cut, as the benchmarks do, and counted. An input that cannot be embedded
at all (a damaged picture, an empty text) is reported with the encoder's reason and does not stop
the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lame_runtime.contract.batch import Floats
from lame_runtime.contract.prompts import Input
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError, UsageError
from lame_runtime.options import MAX_BATCH

from lame_training.evaluation.embedding.identity import ContentHasher, digest
from lame_training.evaluation.embedding.vector_cache import EmbeddingCache

# A larger shard means fewer files but more work lost when a run is killed. The encoder sorts inputs
# by length within windows of 16 batches, so a smaller shard would also pad more.
SHARD_BATCHES = 16
"""Number of batches in a shard."""


@dataclass
class EmbeddingCounts:
    """Counts of the distinct inputs of a task, by what happened to them."""

    embedded: int = 0
    from_cache: int = 0
    cut: int = 0
    """Inputs whose text was too long, embedded now or before."""


@dataclass(frozen=True)
class KeyedInputs:
    """Inputs of one role with the keys of their embeddings."""

    items: list[Input]
    keys: list[str]
    """One key per input; empty for an input that cannot be read."""
    role: str
    """The role that the inputs are embedded in, "query" or "document"."""
    bad: dict[int, str] = field(default_factory=dict)
    """Reason by index into `items`, for inputs that cannot be read or embedded."""


class Embedder:
    """Embeds the inputs of tasks with one model, and keeps their vectors in a cache.

    Args:
        encoder: the model.
        cache: the model's vectors.
        hasher: hashes the content of inputs.
        batch_size: inputs per run of the graph, 1 to `MAX_BATCH`.
        max_pixels: most pixels of a picture or frame; None takes the contract's limit.

    Raises:
        UsageError: `batch_size` or `max_pixels` is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        cache: EmbeddingCache,
        hasher: ContentHasher,
        batch_size: int = 32,
        max_pixels: int | None = None,
    ) -> None:
        if not 1 <= batch_size <= MAX_BATCH:
            raise UsageError(f"`batch_size` is {batch_size}: use 1 to {MAX_BATCH}")
        self.encoder = encoder
        self.cache = cache
        self.hasher = hasher
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        # Prepares inputs without running the model, which finds the bad inputs of a failed shard.
        self._preparer = encoder.preparer.with_budget(max_pixels)

    def key_inputs(self, items: Sequence[Input], role: str) -> KeyedInputs:
        """Returns inputs with their keys: hashes of role, pixel limit and content.

        Inputs whose files cannot be read are listed in `bad`.
        """
        keyed = KeyedInputs(list(items), [], role)
        for index, item in enumerate(items):
            try:
                # Role and pixel limit are part of the key: with another role or limit the same
                # picture has another vector.
                keyed.keys.append(digest([role, self.max_pixels, self.hasher.key(item)]))
            except ValueError as error:
                keyed.keys.append("")
                keyed.bad[index] = str(error)
        return keyed

    def embed(self, keyed: KeyedInputs, counts: EmbeddingCounts, progress: Any) -> None:
        """Embeds the inputs that the cache lacks, and stores their vectors in it.

        Inputs that cannot be embedded are added to `keyed.bad`.

        Args:
            keyed: the inputs.
            counts: updated.
            progress: a progress bar, advanced by one per distinct input.

        Raises:
            StorageError: the disk refuses.
            BackendError: the model failed.
        """
        missing: dict[str, Input] = {}
        cached = set()
        for index, (key, item) in enumerate(zip(keyed.keys, keyed.items, strict=True)):
            # Unreadable inputs share the empty key, so they must not reach the sets below.
            if index in keyed.bad:
                continue
            if key in self.cache:
                cached.add(key)
            else:
                missing.setdefault(key, item)
        counts.from_cache += len(cached)
        progress.update(len(cached))
        reasons: dict[str, str] = {}
        missing_keys = list(missing)
        shard_size = self.batch_size * SHARD_BATCHES
        for start in range(0, len(missing_keys), shard_size):
            keys = missing_keys[start : start + shard_size]
            reasons |= self._embed_shard(keys, [missing[key] for key in keys], keyed.role)
            progress.update(len(keys))
        counts.embedded += len(missing_keys) - len(reasons)
        # Cached inputs count as well: the result file must not depend on what was in the cache.
        counts.cut += sum(self.cache.was_cut(key) for key in {*cached, *missing_keys})
        # Several inputs may share a key, and each query that needs one of them is skipped.
        keyed.bad.update(
            {index: reasons[key] for index, key in enumerate(keyed.keys) if key in reasons}
        )

    def _embed_shard(self, keys: list[str], items: list[Input], role: str) -> dict[str, str]:
        """Embeds and stores a shard; returns the reasons by key for inputs that failed."""
        # Nearly all shards hold no bad input: try them whole, and look for bad ones only if needed.
        try:
            vectors = self._encode(items, role, truncate=False)
            self.cache.put(keys, vectors, np.zeros(len(keys), dtype=bool))
            return {}
        except InputError as error:
            # The encoder's messages about one input begin like this. Any other error is not about
            # an input, and would be the same for every input.
            if not str(error).startswith("input "):
                raise
        reasons: dict[str, str] = {}
        indices_by_cut: dict[bool, list[int]] = {False: [], True: []}
        for index, item in enumerate(items):
            try:
                indices_by_cut[self._must_cut(item, role)].append(index)
            except InputError as error:
                reasons[keys[index]] = str(error)
        # Apart, so that `truncate` never touches a text that fits.
        for cut, indices in indices_by_cut.items():
            if indices:
                vectors = self._encode([items[index] for index in indices], role, truncate=cut)
                shard_keys = [keys[index] for index in indices]
                self.cache.put(shard_keys, vectors, np.full(len(indices), cut))
        return reasons

    def _must_cut(self, item: Input, role: str) -> bool:
        """Returns whether an input can be embedded only with its text cut.

        Raises:
            InputError: the input cannot be embedded at all.
        """
        # A text that is too long raises the same class as a damaged picture. The second attempt
        # tells them apart: truncation helps only the former.
        try:
            self._preparer(item, role)
        except InputError:
            self._preparer(item, role, truncate=True)
            return True
        return False

    def _encode(self, items: list[Input], role: str, *, truncate: bool) -> Floats:
        return self.encoder.encode(
            items,
            role=role,
            batch_size=self.batch_size,
            max_pixels=self.max_pixels,
            truncate=truncate,
        )
