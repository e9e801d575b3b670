"""TensorRT without PyTorch and without a CUDA Python package: two plans on one GPU.

Features of pictures stay on the GPU between the vision tower and the encoder. A batch that is larger than every profile
is run in pieces; an input that is larger than every profile is an error. Written for TensorRT 10.3 to 11 and
TensorRT-RTX; run against a recording stand-in only, not yet on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.backends._buffers import Buffers
from lame_runtime.backends._cudart import Cudart
from lame_runtime.backends._engine import Engine, Session, Shapes
from lame_runtime.backends._tensorrt import load_tensorrt, make_logger
from lame_runtime.backends.base import Backend, Batch, Floats, PictureGroup
from lame_runtime.errors import BackendError

FEATURES, EMBEDDING = "features", "sentence_embedding"
ALL_FEATURES, SOME_FEATURES = "features of a batch", "features of some rows"
"""Buffers of what the encoder reads; the vision tower writes to one named FEATURES, a piece at a time."""
_REMEDY = "lower max_pixels or max_length of the input, or build plans for larger ones: lame-export engine --profile"


class TrtBackend(Backend):
    """Runs a vision and an encoder plan. Any number of threads may call it; `workers` of them run at a time.

    Args:
        vision_plan: the vision tower's plan.
        encoder_plan: the encoder's.
        weights: the two ONNX files, for plans that were stripped of their weights.
        workers: streams, each with contexts and buffers of its own; the weights are shared.
        cuda_graphs: pad lengths to the profile's, record the work of each shape and replay it; for small batches of short inputs.
        host_code: the plans are version-compatible ones, which bring code of their own.
        device: which GPU, as CUDA counts them.
        module: the TensorRT module; None takes what is installed.
        library: libcudart; None looks for it.

    Raises:
        BackendError: no TensorRT, no GPU, not enough of its memory, or a plan that is not for this GPU and version.
    """

    def __init__(
        self,
        vision_plan: Path,
        encoder_plan: Path,
        *,
        weights: tuple[Path, Path] | None = None,
        workers: int = 1,
        cuda_graphs: bool = False,
        host_code: bool = False,
        device: int = 0,
        module: Any = None,
        library: Any = None,
    ) -> None:
        self._trt = module if module is not None else load_tensorrt()
        self._cuda = Cudart(library, device)
        self._logger = make_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        if self._runtime is None:
            raise BackendError(f"{self._trt.__name__} {self._trt.__version__} does not start ({self._logger.first()})")
        if host_code:
            self._runtime.engine_host_code_allowed = True
        vision_weights, encoder_weights = weights or (None, None)
        self._vision: Engine | None = Engine(self._trt, self._runtime, self._logger, vision_plan, vision_weights)
        self._encoder: Engine | None = Engine(self._trt, self._runtime, self._logger, encoder_plan, encoder_weights)
        if self._vision.outputs[FEATURES] != self._encoder.inputs[FEATURES]:
            raise BackendError(f"{encoder_plan}: takes features of another type than {vision_plan} gives; build both from one bundle")
        self.width = self._vision.width(FEATURES)
        self.dim = self._encoder.width(EMBEDDING)
        self.gpu = self._cuda.describe()
        self.name = f"{self._trt.__name__} {self._trt.__version__} on {self.gpu.name}"
        self._closed = False
        self._all: list[_Worker] = []
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        """Workers that nobody uses; None once there will be no more."""
        try:
            for _ in range(workers):
                self._all.append(_Worker(self._trt, self._cuda, self._logger, self._vision, self._encoder, capture=cuda_graphs))
                self._free.put(self._all[-1])
        except BackendError:
            self.close()
            raise

    @contextlib.contextmanager
    def _worker(self) -> Iterator[_Worker]:
        worker = self._free.get()
        if worker is None:
            self._free.put(None)  # for whoever else waits
            raise BackendError("the encoder was closed; load the bundle again")
        self._cuda.use()
        try:
            yield worker
        finally:
            worker.buffers.settle()
            self._free.put(worker)

    def vision(self, group: PictureGroup) -> Floats:
        """See `Backend.vision`."""
        with self._worker() as worker:
            return worker.vision(group)

    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """See `Backend.encoder`."""
        with self._worker() as worker:
            return _finite(worker.encode(batch, worker.buffers.upload(ALL_FEATURES, worker.as_features(features_FD))))

    def run(self, batch: Batch) -> Floats:
        """See `Backend.run`; features do not leave the GPU."""
        with self._worker() as worker:
            return _finite(worker.run(batch))

    def close(self) -> None:
        """Waits for runs in progress, then gives everything back to the GPU; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._cuda.use()
        for worker in [self._free.get() for _ in self._all]:  # each comes back when its run ends
            assert worker is not None
            worker.close()
        self._free.put(None)
        self._all.clear()
        self._vision = self._encoder = self._runtime = None


class _Worker:
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
            scratch = self.buffers.device("scratch", max(vision.scratch, encoder.scratch, 1))
            if capture:  # lengths are padded, and with them the number of features
                self.buffers.device(ALL_FEATURES, max(profile[FEATURES][2][0] for profile in encoder.profiles) * self._row)
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
        return np.concatenate([_array(*each) for each in staged])

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
        rest = {name: array.shape for name, array in feeds.items() if name != "pixel_patches"}
        pictures, *picture = group.pixel_patches.shape
        start = 0
        while start < pictures:
            chosen = self._vision.engine.choose(lambda count: {**rest, "pixel_patches": (count, *picture)}, pictures - start)
            if chosen is None:
                raise BackendError(f"a picture of {picture[0]} patches is larger than every profile of the vision plan; {_REMEDY}")
            profile, count = chosen
            piece = {**feeds, "pixel_patches": group.pixel_patches[start : start + count]}
            yield self._vision.run(profile, piece, {})[FEATURES]
            start += count

    def encode(self, batch: Batch, features: int) -> Floats:
        """Embeddings of a batch whose features lie at an address on the GPU: float32 (B, P)."""
        rows, staged = len(batch.input_ids), []
        start = 0
        while start < rows:
            rest = batch.rows(slice(start, rows))
            profile, count = self._choose(rest)
            piece, address = batch, features
            if count < rows:
                piece, address = self._gather(rest.rows(slice(count)), features)
            staged.append(self._encode(profile, piece, address))
            start += count
        self._cuda.synchronize(self.stream)
        return np.concatenate([_array(*each) for each in staged])

    def _choose(self, batch: Batch) -> tuple[int, int]:
        """The profile that takes the most rows of a batch, and how many."""
        chosen = self._encoder.engine.choose(lambda count: _shapes(batch.rows(slice(count)), self._width), len(batch.input_ids))
        if chosen is None:
            length = int(batch.embed_index[0]) + 1
            raise BackendError(f"an input of {length} tokens is larger than every profile of the encoder plan; {_REMEDY}")
        return chosen

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
        for session in (getattr(self, "_vision", None), getattr(self, "_encoder", None)):
            if session is not None:
                session.close()
        self.buffers.close()
        self._cuda.destroy_stream(self.stream)


Staged = tuple[int, tuple[int, ...], np.dtype[Any]]
"""Address of pinned memory, and shape and type of what is copied there."""


def _array(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Floats:
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


def _finite(vectors: Floats) -> Floats:
    if not np.isfinite(vectors).all():
        raise BackendError("the plan returned a value that is not finite; run `lame-runtime verify` on this device")
    return vectors
