"""One stream with the memory and execution contexts that are used on it.

A batch is cut into pieces that the profiles take, and the features of pictures stay on the GPU
between the vision tower and the encoder.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.backends.base import Part
from lame_runtime.backends.tensorrt.buffers import Buffers
from lame_runtime.backends.tensorrt.cudart import Cudart
from lame_runtime.backends.tensorrt.engine import Engine, Shape, Shapes
from lame_runtime.backends.tensorrt.session import Session
from lame_runtime.contract.batch import Batch, Floats, PictureGroup
from lame_runtime.errors import BackendError

FEATURES, EMBEDDING = "features", "sentence_embedding"
"""The vision graph's output, which the encoder reads, and the encoder's output."""

ALL_FEATURES, SOME_FEATURES = "features of a batch", "features of some rows"
"""GPU buffers that the encoder reads; the vision tower writes to the buffer FEATURES, in pieces."""

Restriction = Mapping[Part, int]
"""Index of the one profile that may be used, for each part that is restricted."""
UNRESTRICTED: Restriction = {}

_REMEDY = (
    "change the input or its `max_pixels`, or build plans with a `profile` that takes it "
    "(lame-export engine)"
)

Staged = tuple[int, Shape, np.dtype[Any]]
"""Address in pinned memory, and shape and dtype of the array that is copied there."""


class Worker:
    """Runs batches on a stream of its own. One thread at a time may use it.

    Args:
        cuda: the CUDA runtime.
        vision: the vision tower's plan.
        encoder: the encoder's plan.
        capture: record the work of each shape as a CUDA graph and replay it.

    Raises:
        DeviceError: the GPU's memory ran out.
    """

    def __init__(self, cuda: Cudart, vision: Engine, encoder: Engine, *, capture: bool) -> None:
        self._cuda = cuda
        self._capture = capture
        self._dtype = vision.outputs[FEATURES]
        self._width = vision.width(FEATURES)
        self._row_bytes = self._width * self._dtype.itemsize
        self.stream = cuda.stream()
        self.buffers = Buffers(cuda, self.stream)
        self._sessions: list[Session] = []
        try:
            scratch = self.buffers.device(
                "scratch", max(vision.scratch, encoder.scratch, 1), exact=True
            )
            if capture:
                # Lengths are padded to the profile's, and with them the number of features. A
                # buffer that never grows keeps its address, which recorded graphs hold.
                self.buffers.device(
                    ALL_FEATURES, _largest_features(encoder) * self._row_bytes, exact=True
                )
        except BackendError:
            self.close()
            raise
        self._vision = Session(vision, self.buffers, scratch, capture=capture)
        self._encoder = Session(encoder, self.buffers, scratch, capture=capture)
        self._sessions += [self._vision, self._encoder]

    def as_features(self, features_FD: Floats) -> npt.NDArray[Any]:
        """Returns features in the dtype that the two plans exchange, (F, width)."""
        return np.ascontiguousarray(features_FD, self._dtype)

    def vision(self, group: PictureGroup, only: Restriction = UNRESTRICTED) -> Floats:
        """Returns the features of the group's pictures, on the host: float32 (N, M, width).

        Raises:
            BackendError: a picture fits no profile, or the run failed.
        """
        staged = [self._fetch(FEATURES, shape, self._dtype) for shape in self._see(group, only)]
        self._cuda.synchronize(self.stream)
        return np.concatenate([fetched(*piece) for piece in staged])

    def run(self, batch: Batch, only: Restriction = UNRESTRICTED) -> Floats:
        """Returns the embeddings of a batch: float32 (B, P). Features do not leave the GPU.

        Raises:
            BackendError: an input fits no profile, or the run failed.
        """
        # Row 0 is zeros, so there is one row more than the largest index.
        n_features = 1 + int(batch.feature_index.max())
        address = self.buffers.device(ALL_FEATURES, n_features * self._row_bytes)
        self._cuda.zero(address, self._row_bytes, self.stream)
        end = address + self._row_bytes
        for group in batch.groups:
            for pictures, tokens, _ in self._see(group, only):
                # Copied before the next piece overwrites FEATURES: a stream runs in order.
                size = pictures * tokens * self._row_bytes
                self._cuda.on_device(end, self.buffers.device(FEATURES, size), size, self.stream)
                end += size
        return self.encode(batch, address, only)

    def _see(self, group: PictureGroup, only: Restriction) -> Iterator[Shape]:
        """Queues the vision tower over a group, in as few pieces as the profiles allow.

        Yields:
            The shape of each piece's features, which the next piece overwrites in FEATURES.
        """
        start = 0
        while start < group.pictures:
            choice = self._choose_vision(group, group.pictures - start, only)
            if choice is None:
                patches = self._vision.engine.range("frames", 2)
                depths = self._vision.engine.range("frames", 1)
                raise BackendError(
                    f"a picture of {group.patches:,} patches fits no profile of the vision plan "
                    f"(they take {patches} patches, and temporal patches of {depths} frames); "
                    f"{_REMEDY}"
                )
            profile, count = choice
            piece = group.rows(slice(start, start + count))
            yield self._vision.run(profile, piece.vision_feeds(), {})[FEATURES]
            start += count

    def _choose_vision(
        self, group: PictureGroup, count: int, only: Restriction
    ) -> tuple[int, int] | None:
        """Returns the profile that takes the most of `count` pictures of a group, and how many."""
        shapes = {name: array.shape for name, array in group.vision_feeds().items()}
        rest = shapes["frames"][1:]
        return self._vision.engine.choose(
            lambda pictures: {**shapes, "frames": (pictures, *rest)},
            count,
            only.get("vision"),
        )

    def takes(self, batch: Batch, only: Restriction = UNRESTRICTED) -> bool:
        """Returns whether the profiles take each row and each picture of a batch by itself."""
        rows = [batch.rows(slice(row, row + 1)) for row in range(len(batch.input_ids))]
        return all(self._choose_vision(group, 1, only) for group in batch.groups) and all(
            self._choose_encoder(row, only) for row in rows
        )

    def encode(self, batch: Batch, features: int, only: Restriction = UNRESTRICTED) -> Floats:
        """Returns the embeddings of a batch: float32 (B, P).

        Args:
            batch: the arrays.
            features: address of the batch's features on the GPU, the row of zeros first.
            only: the profile that may be used.

        Raises:
            BackendError: an input fits no profile, or the run failed.
        """
        rows, start = len(batch.input_ids), 0
        staged = []
        while start < rows:
            rest = batch.rows(slice(start, rows))
            choice = self._choose_encoder(rest, only)
            if choice is None:
                raise self._no_profile(rest)
            profile, count = choice
            # A profile has room for the features of as many rows as it takes, so a piece of a batch
            # brings its own features only.
            piece, address = batch, features
            if count < rows:
                piece, address = self._gather(rest.rows(slice(count)), features)
            staged.append(self._encode(profile, piece, address))
            start += count
        self._cuda.synchronize(self.stream)
        return np.concatenate([fetched(*piece) for piece in staged])

    def _no_profile(self, batch: Batch) -> BackendError:
        """Returns the error for a batch whose first row fits no profile of the encoder."""
        engine = self._encoder.engine
        length = int(batch.embed_index[0]) + 1
        vision = int(np.count_nonzero(batch.feature_index[0]))
        return BackendError(
            f"an input of {length:,} tokens, {vision:,} of them of pictures, "
            f"fits no profile of the encoder plan (they take {engine.range('input_ids', 1)}, "
            f"with {engine.range(FEATURES, 0)} rows of features); {_REMEDY}"
        )

    def _choose_encoder(self, batch: Batch, only: Restriction) -> tuple[int, int] | None:
        """Returns the profile that takes the most rows of a batch, and how many."""
        return self._encoder.engine.choose(
            lambda count: _encoder_shapes(batch.rows(slice(count)), self._width),
            len(batch.input_ids),
            only.get("encoder"),
        )

    def _encode(self, profile: int, batch: Batch, address: int) -> Staged:
        """Queues the encoder over a batch that the profile takes, and a copy of its embeddings."""
        n_features = 1 + int(np.count_nonzero(batch.feature_index))
        if self._capture:
            # A recorded graph holds for one shape. Padded to the profile's largest length and
            # number of features, all batches of the same number of rows share one.
            largest = self._encoder.engine.profiles[profile]
            batch = batch.padded(largest["input_ids"].max[1])
            n_features = largest[FEATURES].max[0]
        feeds = batch.encoder_feeds(_NO_FEATURES)
        del feeds[FEATURES]  # on the GPU already
        shapes = self._encoder.run(profile, feeds, {FEATURES: (address, (n_features, self._width))})
        return self._fetch(EMBEDDING, shapes[EMBEDDING], self._encoder.engine.outputs[EMBEDDING])

    def _gather(self, batch: Batch, features: int) -> tuple[Batch, int]:
        """Copies the features of some rows side by side, as the encoder's profiles count them.

        Args:
            batch: some rows of a batch; their `feature_index` counts the features of the whole one.
            features: address of the whole batch's features.

        Returns:
            The rows with an index that counts their own features alone, and the address of those.
        """
        used = np.unique(batch.feature_index[batch.feature_index > 0])
        n_features = 1 + len(used)
        if self._capture:  # room for the features that padding adds; see `_encode`
            n_features = max(n_features, _largest_features(self._encoder.engine))
        address = self.buffers.device(SOME_FEATURES, n_features * self._row_bytes)
        self._cuda.zero(address, self._row_bytes, self.stream)
        for first, end, place in _consecutive(used):
            size = (end - first) * self._row_bytes
            self._cuda.on_device(
                address + place * self._row_bytes,
                features + first * self._row_bytes,
                size,
                self.stream,
            )
        index = np.where(batch.feature_index > 0, 1 + np.searchsorted(used, batch.feature_index), 0)
        return dataclasses.replace(batch, feature_index=index), address

    def _fetch(self, name: str, shape: Shape, dtype: np.dtype[Any]) -> Staged:
        """Queues a copy of an output to pinned memory."""
        size = int(np.prod(shape)) * dtype.itemsize
        staged = self.buffers.staging(size)
        self._cuda.to_host(staged, self.buffers.device(name, size), size, self.stream)
        return staged, shape, dtype

    def close(self) -> None:
        """Destroys contexts, memory and the stream. The stream must be idle."""
        # An exit stack runs its callbacks last to first, also if one of them raises. Contexts go
        # first: TensorRT must not hold memory that was freed.
        with contextlib.ExitStack() as steps:
            steps.callback(self._cuda.destroy_stream, self.stream)
            steps.callback(self.buffers.close)
            for session in self._sessions:
                steps.callback(session.close)


_NO_FEATURES = np.empty((0, 0), np.float32)
"""Placeholder for features that are on the GPU already."""


def fetched(address: int, shape: Shape, dtype: np.dtype[Any]) -> Floats:
    """Returns a float32 copy of an array in pinned memory."""
    # A copy, because the memory is handed out again after `Buffers.settle`.
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape).astype(np.float32)


def _largest_features(encoder: Engine) -> int:
    """Returns the most rows of features that any profile of the encoder takes."""
    return max(profile[FEATURES].max[0] for profile in encoder.profiles)


def _encoder_shapes(batch: Batch, width: int) -> Shapes:
    """Returns the shapes of the encoder's inputs, with the features of these rows alone."""
    n_features = 1 + int(np.count_nonzero(batch.feature_index))
    feeds = batch.encoder_feeds(_NO_FEATURES)
    return {name: array.shape for name, array in feeds.items()} | {FEATURES: (n_features, width)}


def _consecutive(rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yields the stretches of consecutive numbers in a sorted list, so that each is one copy.

    Yields:
        The first number, one more than the last, and the place of the first in the list, from 1.
    """
    start = 0
    for end in [*(np.flatnonzero(np.diff(rows) > 1) + 1), len(rows)]:
        if end > start:
            yield int(rows[start]), int(rows[end - 1]) + 1, start + 1
        start = int(end)
