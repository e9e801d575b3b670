"""The interface between batches and whatever runs the two graphs.

    onnxruntime.OrtBackend           ONNX Runtime on a CPU or a CUDA GPU
    tensorrt.backend.TrtBackend      TensorRT and TensorRT-RTX plans, on one GPU
    fake.FakeBackend                 no model; for tests of everything around it

The exporter and the trainer add their own: PyTorch (the reference that graphs are compared with),
the traced program, and a graph that is streamed from the disk. Whoever gets a backend calls `run`.

Axes: N pictures, S patches of one picture, M merged tokens of one picture, D backbone width,
B batch, L padded length, P embedding length. A feature row is D wide. Qwen3-VL's row is wider:
after its first D values come those that its deepstack adds after the first blocks, D per level.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, NoReturn, SupportsIndex

import numpy as np

from lame_runtime.backends.device import Device
from lame_runtime.contract.batch import Batch, Floats, PictureGroup
from lame_runtime.contract.vectors import require_floats
from lame_runtime.errors import BackendError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

Part = Literal["vision", "encoder"]
"""One of the two graphs of a model."""


class Backend(ABC):
    """Runs the vision tower and the encoder. Implementations keep no state between calls."""

    name: str
    """The engine and where it runs, such as "onnxruntime 1.31.1 CPU"; `info` prints it."""
    width: int
    """Width of a feature row: D, times 1 + the number of deepstack levels (Qwen3-VL)."""
    dim: int | None = None
    """Length P of a vector, if the backend knows it."""
    process: int
    """Process that made the backend. A forked process inherits its memory but not its threads."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Records the process, also for subclasses that have an `__init__` of their own."""
        backend = super().__new__(cls)
        backend.process = os.getpid()
        return backend

    @property
    def in_own_process(self) -> bool:
        """Whether this is the process that made the backend, and not one that was forked later."""
        return self.process == os.getpid()

    def require_own_process(self) -> None:
        """Raises `BackendError` in a forked process, in which a run might wait forever."""
        if not self.in_own_process:
            raise BackendError(
                "the encoder was loaded in another process, whose threads a forked process does "
                "not have; call `Encoder.load` in each process, or start processes with `spawn`"
            )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuses to be pickled or copied: native code would end the process or fail later.

        Raises:
            UsageError: always; also from `copy.deepcopy` and `dataclasses.asdict`.
        """
        raise UsageError(
            "a backend cannot be pickled or copied, because it holds loaded graphs; "
            "call `Encoder.load` in each process, or share the encoder between threads"
        )

    def __copy__(self) -> Self:
        """Returns the backend itself, which has no state of its own to change."""
        return self

    @abstractmethod
    def vision(self, group: PictureGroup) -> Floats:
        """Returns the features of the group's pictures: float32 (N, M, width)."""

    @abstractmethod
    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """Returns the embeddings of a batch: float32 (B, P), unit rows.

        Args:
            batch: the arrays.
            features_FD: float32 (F, width): a row of zeros, then the features of all groups.
        """

    def features(self, batch: Batch) -> Floats:
        """Returns a row of zeros, then the features of all pictures: float32 (F, width).

        Raises:
            BackendError: the vision tower failed, or returned an array of another type or shape.
        """
        # Tokens that are not vision tokens point at row 0, so the graph gathers without a branch.
        parts = [np.zeros((1, self.width), dtype=np.float32)]
        for group in batch.groups:
            # Full attention over a large group needs N × S² scores, so it runs in pieces that fit.
            for piece in group.pieces():
                rows = self.vision(piece)
                require_floats(rows, (piece.pictures, None, self.width), "vision graph")
                parts.append(rows.reshape(-1, self.width))
        return np.concatenate(parts)

    def run(self, batch: Batch) -> Floats:
        """Runs the vision tower over each group, then the encoder: float32 (B, P), unit rows.

        Raises:
            BackendError: a graph failed, or returned an array of another type or shape.
        """
        features_FD = self.features(batch)
        # a graph that returns too few features would give a token those of another picture
        if int(batch.feature_index.max(initial=0)) >= len(features_FD):
            raise BackendError(
                f"the vision graph returned {len(features_FD) - 1} features, fewer than the "
                "pictures have; copy or export the bundle again"
            )
        vectors = self.encoder(batch, features_FD)
        require_floats(vectors, (len(batch.embed_index), self.dim), "encoder graph")
        return vectors

    def close(self) -> None:  # noqa: B027 - most backends hold nothing that must be released
        """Releases what the backend holds; the backend cannot be used afterward."""


class ProfiledBackend(Backend):
    """A backend on one GPU whose graphs are compiled for ranges of input shapes ("profiles").

    Every profile has kernels of its own. A check of the backend therefore has to run each of them,
    also those that `run` would not choose for the inputs at hand: see `with_profile`.
    """

    gpu: Device
    engine: str
    """Name and version of the inference engine, such as "tensorrt 10.3.0"."""
    cuda_graphs: bool
    """Whether work is recorded and replayed, which is another path through the GPU's software."""
    profiles: dict[Part, int]
    """Number of profiles of each part."""

    @abstractmethod
    def takes(self, batch: Batch) -> bool:
        """Returns whether the profiles take each row and each picture of the batch by itself."""

    @abstractmethod
    def with_profile(self, part: Part, index: int) -> ProfiledBackend:
        """Returns a view of this backend that runs `part` in one of its profiles only.

        The view shares plans, memory and workers with this backend, and both may be used at the
        same time. Closing a view does nothing; it stops working when this backend is closed.

        Raises:
            UsageError: there is no such part or profile.
        """
