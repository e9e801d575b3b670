"""TensorRT without PyTorch and without a CUDA Python package: two plans on one GPU.

Features of pictures stay on the GPU between the vision tower and the encoder. A batch that is larger than every profile
is run in pieces; an input that fits no profile is an error. Written for TensorRT 10.3 to 11 and
TensorRT-RTX; run against a recording stand-in only, not yet on a GPU.
"""

from __future__ import annotations

import contextlib
import queue
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lame_runtime.backends._cudart import Cudart
from lame_runtime.backends._engine import Engine
from lame_runtime.backends._tensorrt import load_tensorrt, make_logger, make_runtime
from lame_runtime.backends._worker import ALL_FEATURES, EMBEDDING, FEATURES, Worker
from lame_runtime.backends.base import Backend, Batch, Floats, PictureGroup
from lame_runtime.errors import BackendError, DeviceError


class TrtBackend(Backend):
    """Runs a vision and an encoder plan. Any number of threads may call it; `workers` of them run at a time.

    Args:
        vision_plan: the vision tower's plan.
        encoder_plan: the encoder's.
        weights: the two ONNX files, for plans that were stripped of their weights.
        hashes: sha256 of the two plans' files; None takes them as they are.
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
        hashes: tuple[str, str] | None = None,
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
        self._runtime = make_runtime(self._trt, self._logger)
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._vision, self._encoder = (
            Engine(self._trt, self._runtime, self._logger, plan, graph, sha256=sha256)
            for plan, graph, sha256 in zip((vision_plan, encoder_plan), weights or (None, None), hashes or (None, None), strict=True)
        )
        if self._vision.outputs[FEATURES] != self._encoder.inputs[FEATURES]:
            raise BackendError(f"{encoder_plan}: takes features of another type than {vision_plan} gives; build both from one bundle")
        self.width = self._vision.width(FEATURES)
        self.dim = self._encoder.width(EMBEDDING)
        self.gpu = self._cuda.describe()
        self.engine = f"{self._trt.__name__} {self._trt.__version__}"
        self.name = f"{self.engine} on {self.gpu.name}"
        self.cuda_graphs = cuda_graphs
        self.profiles = {"vision": len(self._vision.profiles), "encoder": len(self._encoder.profiles)}
        """How many each plan has."""
        self._closed = False
        self._all: list[Worker] = []
        self._free: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        """Workers that nobody uses; None once there will be no more."""
        self._finalizer = weakref.finalize(self, _release, self._cuda, self._all, (self._vision, self._encoder))
        self._finalizer.atexit = False  # the process gives everything back, and CUDA may be gone by then
        try:
            for _ in range(workers):
                self._all.append(Worker(self._trt, self._cuda, self._logger, self._vision, self._encoder, capture=cuda_graphs))
                self._free.put(self._all[-1])
        except BackendError:
            self.close()
            raise

    @contextlib.contextmanager
    def only(self, part: str, profile: int) -> Iterator[None]:
        """Meanwhile a part ("vision", "encoder") runs in one of its profiles alone: each has kernels of its own, which a proof runs."""
        engine = {"vision": self._vision, "encoder": self._encoder}[part]
        engine.only = profile
        try:
            yield
        finally:
            engine.only = None

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        worker = None if self._closed else self._free.get()
        if worker is None:
            if self._closed:
                self._free.put(None)  # for whoever else waits
            raise BackendError("the encoder was closed; load the bundle again")
        try:
            self._cuda.use()
            yield worker
        finally:
            try:
                worker.buffers.settle()
            finally:  # after a fault of the GPU, too: whoever waits for a worker is told of it
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

    def takes(self, batch: Batch) -> bool:
        """Whether the profiles take each row and picture of a batch by itself."""
        with self._worker() as worker:
            return worker.takes(batch)

    def close(self) -> None:
        """Waits for runs in progress, then gives everything back to the GPU; a second call does nothing.

        What nobody holds any more is given back without it.
        """
        if self._closed:
            return
        self._closed = True
        for _ in self._all:
            self._free.get()  # each comes back when its run ends
        self._free.put(None)
        self._finalizer()
        self._runtime = None


def _release(cuda: Cudart, workers: list[Worker], engines: tuple[Engine, Engine]) -> None:
    """Gives everything back. After a fault of the GPU nothing can be; it is tried all the same."""
    with contextlib.suppress(DeviceError):
        cuda.use()
    while workers:
        with contextlib.suppress(DeviceError):
            workers.pop().close()
    for engine in engines:
        engine.close()


def _finite(vectors: Floats) -> Floats:
    if not np.isfinite(vectors).all():
        raise BackendError("the plan returned a value that is not finite; run `lame-runtime verify` on this device")
    return vectors
