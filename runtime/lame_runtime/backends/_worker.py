"""One stream with everything that is used on it: a batch in pieces that the profiles take, features that stay on the GPU."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.backends._buffers import Buffers
from lame_runtime.backends._cudart import Cudart
from lame_runtime.backends._engine import Engine, Session, Shapes
from lame_runtime.backends.base import Batch, Floats, PictureGroup
from lame_runtime.errors import BackendError

FEATURES, EMBEDDING = "features", "sentence_embedding"
ALL_FEATURES, SOME_FEATURES = "features of a batch", "features of some rows"
"""Buffers of what the encoder reads; the vision tower writes to one named FEATURES, a piece at a time."""
_REMEDY = "change the input or its max_pixels, or build plans that take it: lame-export engine --profile"


class Worker:
    """A stream with everything that is used on it."""

    def __init__(self, trt: Any, cuda: Cudart, logger: Any, vision: Engine, encoder: Engine, *, capture: bool) -> None:
        self._cuda = cuda
        self._capture = capture
        self._type = vision.outputs[FEATURES]
        self._width = vision.width(FEATURES)
        self._row = self._width * self._type.itemsize
        self._dim = encoder.width(EMBEDDING)
        self.stream = cuda.stream()
        self.buffers = Buffers(cuda, self.stream)
        try:
            scratch = self.buffers.device("scratch", max(vision.scratch, encoder.scratch, 1), exact=True)
            if capture:  # lengths are padded, and with them the number of features
                self.buffers.device(ALL_FEATURES, max(profile[FEATURES][2][0] for profile in encoder.profiles) * self._row, exact=True)
        except BackendError:
            self.close()
            raise
        self._vision, self._encoder = (
            Session(trt, engine, logger, cuda, self.stream, self.buffers, scratch, capture=capture) for engine in (vision, encoder)
        )

    def as_features(self, features_FD: Floats) -> npt.NDArray[Any]:
        """In the type the plans exchange."""
        return np.ascontiguousarray(features_FD, self._type)

    def vision(self, group: PictureGroup) -> Floats:
        """Features of the group's pictures, on the host: float32 (N, M, D)."""
        staged = [self._fetch(FEATURES, shape, self._type) for shape in self._see(group)]
        self._cuda.synchronize(self.stream)
        return np.concatenate([fetched(*each) for each in staged])

    def run(self, batch: Batch) -> Floats:
        """Embeddings of a batch: float32 (B, P)."""
        address = self.buffers.device(ALL_FEATURES, (1 + int(batch.feature_index.max())) * self._row)
        self._cuda.zero(address, self._row, self.stream)
        place = address + self._row
        for group in batch.groups:
            for pictures, features, _ in self._see(group):
                size = pictures * features * self._row
                self._cuda.on_device(place, self.buffers.device(FEATURES, size), size, self.stream)
                place += size
        return self.encode(batch, address)

    def _see(self, group: PictureGroup) -> Iterator[tuple[int, ...]]:
        """Queues the vision tower over a group, in as few pieces as the profiles allow; yields the shape of each's features."""
        feeds = group.vision_feeds()
        pictures, patches, _ = group.pixel_patches.shape
        start = 0
        while start < pictures:
            chosen = self._choose_vision(group, pictures - start)
            if chosen is None:
                taken = self._vision.engine.range("pixel_patches", 1)
                raise BackendError(f"a picture of {patches:,} patches fits no profile of the vision plan (they take {taken}); {_REMEDY}")
            profile, count = chosen
            piece = {**feeds, "pixel_patches": group.pixel_patches[start : start + count]}
            yield self._vision.run(profile, piece, {})[FEATURES]
            start += count

    def _choose_vision(self, group: PictureGroup, wanted: int) -> tuple[int, int] | None:
        """The profile that takes the most of the wanted pictures of a group, and how many."""
        shapes = {name: array.shape for name, array in group.vision_feeds().items()}
        rest = shapes["pixel_patches"][1:]
        return self._vision.engine.choose(lambda count: {**shapes, "pixel_patches": (count, *rest)}, wanted)

    def takes(self, batch: Batch) -> bool:
        """Whether the profiles take each row and picture of a batch by itself."""
        rows = [batch.rows(slice(row, row + 1)) for row in range(len(batch.input_ids))]
        return all(self._choose_vision(group, 1) for group in batch.groups) and all(map(self._choose_encoder, rows))

    def encode(self, batch: Batch, features: int) -> Floats:
        """Embeddings of a batch whose features lie at an address on the GPU: float32 (B, P)."""
        rows, staged, engine = len(batch.input_ids), [], self._encoder.engine
        start = 0
        while start < rows:
            rest = batch.rows(slice(start, rows))
            chosen = self._choose_encoder(rest)
            if chosen is None:
                length = int(rest.embed_index[0]) + 1
                given = f"{length:,} tokens, {int(np.count_nonzero(rest.feature_index[0])):,} of them of pictures,"
                taken = f"{engine.range('input_ids', 1)}, with {engine.range(FEATURES, 0)} rows of features"
                raise BackendError(f"an input of {given} fits no profile of the encoder plan (they take {taken}); {_REMEDY}")
            profile, count = chosen
            piece, address = batch, features
            if count < rows:
                piece, address = self._gather(rest.rows(slice(count)), features)
            staged.append(self._encode(profile, piece, address))
            start += count
        self._cuda.synchronize(self.stream)
        return np.concatenate([fetched(*each) for each in staged])

    def _choose_encoder(self, batch: Batch) -> tuple[int, int] | None:
        """The profile that takes the most rows of a batch, and how many."""
        return self._encoder.engine.choose(lambda count: _shapes(batch.rows(slice(count)), self._width), len(batch.input_ids))

    def _encode(self, profile: int, batch: Batch, address: int) -> Staged:
        count = 1 + int(np.count_nonzero(batch.feature_index))
        if self._capture:
            largest = self._encoder.engine.profiles[profile]
            batch = batch.padded(largest["input_ids"][2][1])
            count = largest[FEATURES][2][0]
        feeds = batch.encoder_feeds(np.empty((0, 0), np.float32))
        del feeds[FEATURES]
        shapes = self._encoder.run(profile, feeds, {FEATURES: (address, (count, self._width))})
        return self._fetch(EMBEDDING, shapes[EMBEDDING], self._encoder.engine.outputs[EMBEDDING])

    def _gather(self, batch: Batch, features: int) -> tuple[Batch, int]:
        """Some rows of a batch with their own features side by side, as the encoder's profiles count them."""
        used = np.unique(batch.feature_index[batch.feature_index > 0])
        address = self.buffers.device(SOME_FEATURES, self._most_features(len(used)) * self._row)
        self._cuda.zero(address, self._row, self.stream)
        for first, last, place in _runs(used):
            size = (last - first) * self._row
            self._cuda.on_device(address + place * self._row, features + first * self._row, size, self.stream)
        index = np.where(batch.feature_index > 0, 1 + np.searchsorted(used, batch.feature_index), 0)
        return dataclasses.replace(batch, feature_index=index), address

    def _most_features(self, used: int) -> int:
        """Rows of a buffer of features, the row of zeros included; with padding, those of the largest profile."""
        return max(1 + used, *(profile[FEATURES][2][0] for profile in self._encoder.engine.profiles if self._capture), 0)

    def _fetch(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Staged:
        """Queues a copy of an output to pinned memory."""
        size = int(np.prod(shape)) * dtype.itemsize
        staged = self.buffers.staging(size)
        self._cuda.to_host(staged, self.buffers.device(name, size), size, self.stream)
        return staged, shape, dtype

    def close(self) -> None:
        """Nothing may be queued any more."""
        with contextlib.ExitStack() as steps:  # one after the other, whatever the one before said
            steps.callback(self._cuda.destroy_stream, self.stream)
            steps.callback(self.buffers.close)
            for session in (getattr(self, "_vision", None), getattr(self, "_encoder", None)):
                if session is not None:
                    steps.callback(session.close)


Staged = tuple[int, tuple[int, ...], np.dtype[Any]]
"""Address of pinned memory, and shape and type of what is copied there."""


def fetched(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Floats:
    """A copy, float32, of what lies in pinned memory."""
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape).astype(np.float32)


def _shapes(batch: Batch, width: int) -> Shapes:
    """Shapes of the encoder's inputs; features are counted without those of other rows."""
    features = 1 + int(np.count_nonzero(batch.feature_index))
    return {name: array.shape for name, array in batch.encoder_feeds(np.empty((0, 0), np.float32)).items()} | {FEATURES: (features, width)}


def _runs(used: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Neighbouring rows of a sorted list: first, end, and the place of the first in the list, counted from 1."""
    start = 0
    for end in [*(np.flatnonzero(np.diff(used) > 1) + 1), len(used)]:
        if end > start:
            yield int(used[start]), int(used[end - 1]) + 1, start + 1
        start = int(end)
