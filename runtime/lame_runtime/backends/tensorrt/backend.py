"""TensorRT without PyTorch and without a CUDA Python package: two plans on one GPU.

The features of pictures stay on the GPU between the vision tower and the encoder. A batch that is
larger than every profile runs in pieces; an input that fits no profile is an error. Written for
TensorRT 10.3 to 11 and TensorRT-RTX. So far it has run on a recording stand-in only, not on a GPU.
"""

from __future__ import annotations

import contextlib
import queue
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.backends.base import Part, ProfiledBackend
from lame_runtime.backends.tensorrt.cudart import Cudart
from lame_runtime.backends.tensorrt.engine import Engine
from lame_runtime.backends.tensorrt.module import load_tensorrt, make_logger, make_runtime
from lame_runtime.backends.tensorrt.worker import (
    ALL_FEATURES,
    EMBEDDING,
    FEATURES,
    UNRESTRICTED,
    Restriction,
    Worker,
)
from lame_runtime.contract.batch import Batch, Floats, PictureGroup
from lame_runtime.contract.vectors import require_finite
from lame_runtime.errors import BackendError, DeviceError, UsageError

_SOURCE = "the plan"
"""Names the origin of values that are not finite, in messages."""


@dataclass(frozen=True)
class TrtOptions:
    """How two plans are loaded and run."""

    weights: tuple[Path, Path] | None = None
    """ONNX files of the vision tower and the encoder, for plans that were built without weights."""
    hashes: tuple[str, str] | None = None
    """sha256 that the two plans' files must have; None skips the check."""
    workers: int = 1
    """Streams, each with contexts and buffers of its own; all share the weights."""
    cuda_graphs: bool = False
    """Pad lengths to the profile's, record the work of each shape as a CUDA graph and replay it.
    Queueing kernels one by one then costs nothing, which pays for small batches of short inputs."""
    host_code: bool = False
    """Accept plans that bring CPU code of their own, as version-compatible ones do."""
    device: int = 0
    """Index of the GPU, as CUDA counts them."""


class TrtBackend(ProfiledBackend):
    """Runs a vision and an encoder plan. Any number of threads may call it.

    As many threads as there are workers run at a time; the others wait. A backend that is no longer
    referenced frees its GPU memory by itself, without `close`.

    Args:
        vision_plan: the vision tower's plan.
        encoder_plan: the encoder's plan.
        options: how to load and run them.
        module: the TensorRT module; None takes the one that is installed.
        library: libcudart, or a stand-in; None looks for the system's.

    Raises:
        BackendError: no TensorRT, no GPU, not enough of its memory (`DeviceError`), or a plan that
            is not for this GPU and version.
    """

    def __init__(
        self,
        vision_plan: Path,
        encoder_plan: Path,
        options: TrtOptions | None = None,
        *,
        module: Any = None,
        library: Any = None,
    ) -> None:
        options = options or TrtOptions()
        trt = module if module is not None else load_tensorrt()
        self._cuda = Cudart(library, options.device)
        # TensorRT holds plain pointers to its logger and runtime: both must outlive the engines.
        self._logger = make_logger(trt)
        self._runtime = make_runtime(trt, self._logger)
        if options.host_code:
            # Off by default in TensorRT: such a plan runs its own code in this process.
            self._runtime.engine_host_code_allowed = True
        vision_graph, encoder_graph = options.weights or (None, None)
        vision_hash, encoder_hash = options.hashes or (None, None)
        self._vision = Engine(
            trt, self._runtime, self._logger, vision_plan, vision_graph, sha256=vision_hash
        )
        self._encoder = Engine(
            trt, self._runtime, self._logger, encoder_plan, encoder_graph, sha256=encoder_hash
        )
        if self._vision.outputs[FEATURES] != self._encoder.inputs[FEATURES]:
            raise BackendError(
                f"{encoder_plan}: takes features of another type than {vision_plan} gives; "
                "build both from one bundle"
            )
        self.width = self._vision.width(FEATURES)
        self.dim = self._encoder.width(EMBEDDING)
        """Length P of the vectors."""
        self.gpu = self._cuda.describe()
        self.engine = f"{trt.__name__} {trt.__version__}"
        self.name = f"{self.engine} on {self.gpu.name}"
        self.cuda_graphs = options.cuda_graphs
        self.profiles = {
            "vision": len(self._vision.profiles),
            "encoder": len(self._encoder.profiles),
        }
        self._open_workers(options.workers)

    def _open_workers(self, count: int) -> None:
        self._closed = False
        self._workers: list[Worker] = []
        # Last in, first out: the worker that ran last has its buffers and contexts ready.
        self._free: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        """Workers that no thread uses; None after `close`, which wakes threads that still wait."""
        self._finalizer = weakref.finalize(
            self, _release, self._cuda, self._workers, (self._vision, self._encoder)
        )
        # At exit the process gives everything back, and libcudart may be unloaded before Python's
        # exit handlers run: calls into it would then report errors.
        self._finalizer.atexit = False
        try:
            for _ in range(count):
                worker = Worker(self._cuda, self._vision, self._encoder, capture=self.cuda_graphs)
                self._workers.append(worker)
                self._free.put(worker)
        except BackendError:
            self.close()
            raise

    def with_profile(self, part: Part, index: int) -> ProfiledBackend:
        """Returns a view that runs `part` in one profile; see `ProfiledBackend.with_profile`."""
        return _ProfileView(self, part, index)

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        """Lends a worker to the calling thread and waits for its work at the end."""
        worker = None if self._closed else self._free.get()
        if worker is None:
            if self._closed:
                self._free.put(None)  # for the next thread that waits
            raise BackendError("the encoder was closed; load the bundle again")
        try:
            self._cuda.use()
            yield worker
        finally:
            try:
                worker.buffers.settle()
            finally:
                # Also after a fault of the GPU: a thread that waits for a worker then gets the
                # error instead of waiting forever.
                self._free.put(worker)

    def vision(self, group: PictureGroup, only: Restriction = UNRESTRICTED) -> Floats:
        """Returns the features of the group's pictures; see `Backend.vision`.

        Args:
            group: the pictures.
            only: the profile that may be used, by part; for views.
        """
        with self._worker() as worker:
            return worker.vision(group, only)

    def encoder(
        self, batch: Batch, features_FD: Floats, only: Restriction = UNRESTRICTED
    ) -> Floats:
        """Returns the embeddings of a batch; see `Backend.encoder`."""
        with self._worker() as worker:
            address = worker.buffers.upload(ALL_FEATURES, worker.as_features(features_FD))
            return require_finite(worker.encode(batch, address, only), _SOURCE)

    def run(self, batch: Batch, only: Restriction = UNRESTRICTED) -> Floats:
        """Returns the embeddings of a batch; see `Backend.run`. Features do not leave the GPU."""
        with self._worker() as worker:
            return require_finite(worker.run(batch, only), _SOURCE)

    def takes(self, batch: Batch, only: Restriction = UNRESTRICTED) -> bool:
        """Returns whether the profiles take each row and each picture of the batch by itself."""
        with self._worker() as worker:
            return worker.takes(batch, only)

    def close(self) -> None:
        """Waits for runs in progress, then frees everything; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for _ in self._workers:
            self._free.get()  # a worker comes back when its run ends
        self._free.put(None)
        self._finalizer()
        self._runtime = None


class _ProfileView(ProfiledBackend):
    """A `TrtBackend` that uses one profile of one part; see `ProfiledBackend.with_profile`."""

    def __init__(self, backend: TrtBackend, part: Part, index: int) -> None:
        count = backend.profiles.get(part, 0)
        if not 0 <= index < count:
            raise UsageError(
                f"`part` {part!r} has {count} profiles, `index` is {index}: use 0 to {count - 1}"
            )
        self._backend = backend  # keeps its GPU memory alive as long as the view
        self._only: Restriction = {part: index}
        self.name = f"{backend.name}, {part} profile {index + 1} of {count}"
        self.width = backend.width
        self.gpu = backend.gpu
        self.engine = backend.engine
        self.cuda_graphs = backend.cuda_graphs
        self.profiles = backend.profiles

    def vision(self, group: PictureGroup) -> Floats:
        return self._backend.vision(group, self._only)

    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        return self._backend.encoder(batch, features_FD, self._only)

    def run(self, batch: Batch) -> Floats:
        return self._backend.run(batch, self._only)

    def takes(self, batch: Batch) -> bool:
        return self._backend.takes(batch, self._only)

    def with_profile(self, part: Part, index: int) -> ProfiledBackend:
        return self._backend.with_profile(part, index)


def _release(cuda: Cudart, workers: list[Worker], engines: tuple[Engine, Engine]) -> None:
    """Frees everything. After a fault of the GPU nothing can be freed; it is tried all the same.

    A module-level function: a bound method would keep the backend alive that it finalizes.
    """
    with contextlib.suppress(DeviceError):
        cuda.use()  # the garbage collector may call this in any thread
    while workers:
        with contextlib.suppress(DeviceError):
            workers.pop().close()
    for engine in engines:
        engine.close()
