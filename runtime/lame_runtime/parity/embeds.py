"""Defines the protocol of encoders that can be checked: `Encoder`, or a class like it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy.typing as npt

from lame_runtime.backends.base import Backend
from lame_runtime.contract.preparer import Preparer


# A protocol rather than `Encoder` itself: `encoder` imports `loading`, which imports this package.
class Embeds(Protocol):
    """Defines a contract and a backend that together turn inputs into vectors."""

    @property
    def preparer(self) -> Preparer:
        """The contract and tokenizer."""

    @property
    def backend(self) -> Backend:
        """The backend that runs the graphs."""

    @property
    def graph(self) -> str:
        """Name of the graph that runs, which selects its gates."""

    @property
    def dim(self) -> int:
        """Length P of the vectors."""

    def encode(
        self, inputs: Iterable[Any], *, role: str | None = None, batch_size: int = 32
    ) -> npt.NDArray[Any]:
        """Embeds inputs and returns float32 (n, P), unit rows."""

    def with_backend(self, backend: Backend) -> Embeds:
        """Returns a copy with another backend, such as a view of one TensorRT profile."""
