"""Opens the two files of a graph so that the bytes that were checked are the bytes that run.

A path can lead to another file between the check of a hash and the moment when ONNX Runtime opens
it. So each file is opened once, by us: the graph is read into memory, and so are weights of up to
`PRIVATE_BYTES`. Larger weights, and those that are to stay on the disk, are mapped from the open
file, and a file that was written to meanwhile is refused.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lame_runtime.bundle.members import COPY_AGAIN, unreadable
from lame_runtime.errors import BackendError, BundleError, shown
from lame_runtime.files.graphs.onnx_fields import DATA_TYPES
from lame_runtime.files.graphs.onnx_graph import (
    MAX_GRAPH_BYTES,
    GraphFacts,
    Weight,
    read_graph,
)
from lame_runtime.files.regular import open_regular, read_regular

PRIVATE_BYTES = 512 << 20
"""Largest data file that is copied into memory; a copy cannot change, but it takes memory twice
while a session is created."""
_CHUNK = 16 << 20
_CLOCK_STEP = 20_000_000
"""Nanoseconds in which two changes of a file may get the same time; kernels count in 1 to 10 ms."""

Hashes = Mapping[Path, str | None]
"""The files that a graph may consist of, with their sha256; None leaves a file unchecked."""


@dataclass(frozen=True)
class GraphSource:
    """A graph in memory, with its weights in memory or mapped from an open file.

    It is a context manager, which closes that file.
    """

    path: Path
    model: bytes
    facts: GraphFacts
    data: Any = b""
    """The content of the data file, as a buffer."""
    file: IO[bytes] | None = None
    """The data file, if it is mapped."""
    state: tuple[int, ...] = ()
    """State of the data file before it was checked."""

    def __enter__(self) -> GraphSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the data file; what was mapped from it stays mapped."""
        if self.file is not None:
            self.file.close()

    def arrays(self) -> Iterator[tuple[Weight, npt.NDArray[Any]]]:
        """Yields the weights with their values, which are not copied."""
        for weight in self.facts.weights:
            dtype = np.dtype(DATA_TYPES[weight.data_type])
            count = weight.length // dtype.itemsize
            # an empty array has no place in a file, which may be empty itself
            values: npt.NDArray[Any] = np.empty(0, dtype)
            if count:
                values = np.frombuffer(self.data, dtype, count, weight.offset)
            yield weight, values.reshape(weight.dims)

    def require_unchanged(self) -> None:
        """Raises `BundleError` if mapped weights were written to since they were opened."""
        if self.file is not None and file_state(self.file) != self.state:
            data_path = self.path.with_name(self.facts.data_name)
            raise BundleError(
                f"{shown(data_path)}: was changed while it was loaded; load the bundle again"
            )


def open_graph(path: Path, listed: Hashes | None = None, *, mapped: bool = False) -> GraphSource:
    """Opens an ONNX file and its weights.

    Args:
        path: the ONNX file.
        listed: the files that the manifest lists; None takes any, for graphs of our own.
        mapped: map weights of any size.

    Raises:
        BundleError: a file is missing, not listed, has another hash, or is not a graph as the
            exporter writes it.
    """
    try:
        model = read_regular(path, MAX_GRAPH_BYTES)
        _require_hash(path, listed, hashlib.sha256(model).hexdigest)
        facts = graph_facts(path, model)
        if not facts.weights:
            return GraphSource(path, model, facts)
        return _with_weights(path, model, facts, listed, mapped)
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from None
    except MemoryError:
        raise BackendError(f"{shown(path)}: its weights do not fit into memory") from None


def check_graph(path: Path) -> None:
    """Raises `BundleError` if an ONNX file holds or refers to what no exported graph does."""
    try:
        graph_facts(path, read_regular(path, MAX_GRAPH_BYTES))
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from None


def graph_facts(path: Path, model: bytes) -> GraphFacts:
    """Returns what an ONNX file holds; raises `BundleError` if it is not an exported graph."""
    try:
        return read_graph(model, path.name)
    except ValueError as error:
        raise BundleError(f"{shown(path)}: {error}; {COPY_AGAIN}") from None


def _with_weights(
    path: Path, model: bytes, facts: GraphFacts, listed: Hashes | None, mapped: bool
) -> GraphSource:
    data_path = path.with_name(facts.data_name)
    # Links are followed, since caches of model hubs consist of them, but the weights must lie
    # beside the graph where the links end.
    # `realpath`, because `resolve` raises for links in a circle before Python 3.13
    folders = {Path(os.path.realpath(name)).parent for name in (path, data_path)}
    if len(folders) > 1:
        raise BundleError(f"{shown(data_path)}: is a link that leads elsewhere; {COPY_AGAIN}")
    file = open_regular(data_path)
    try:
        size = os.fstat(file.fileno()).st_size
        if size < facts.data_size:
            raise BundleError(
                f"{shown(data_path)}: has {size:,} bytes, its graph needs {facts.data_size:,}; "
                f"{COPY_AGAIN}"
            )
        if mapped or size > PRIVATE_BYTES:
            state = settled_state(file)
            _require_hash(data_path, listed, lambda: _digest(file))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            return GraphSource(path, model, facts, data, file, state)
        copy = bytearray(size)
        if file.readinto(copy) != size:  # type: ignore[attr-defined]
            raise BundleError(
                f"{shown(data_path)}: was changed while it was read; load the bundle again"
            )
        _require_hash(data_path, listed, lambda: hashlib.sha256(copy).hexdigest())
        file.close()
        return GraphSource(path, model, facts, copy)
    except BaseException:
        file.close()
        raise


def _require_hash(path: Path, listed: Hashes | None, digest: Callable[[], str]) -> None:
    if listed is None:
        return
    if path not in listed:
        raise BundleError(f"{shown(path)}: is not listed in the manifest; {COPY_AGAIN}")
    expected = listed[path]
    if expected is not None and digest() != expected:
        raise BundleError(
            f"{shown(path)}: differs from what was exported (wrong sha256); {COPY_AGAIN}"
        )


def _digest(file: IO[bytes]) -> str:
    # read, not mapped: a file that is cut short while it is read must not end the process
    digest = hashlib.sha256()
    while piece := file.read(_CHUNK):
        digest.update(piece)
    return digest.hexdigest()


def settled_state(file: IO[bytes]) -> tuple[int, ...]:
    """Returns the state of a file after which every change is one of its times."""
    state = file_state(file)
    # a second change right after the first would leave the time as it is
    if abs(time.time_ns() - state[-1]) < _CLOCK_STEP:
        time.sleep(2 * _CLOCK_STEP / 1e9)
        state = file_state(file)
    return state


def file_state(file: IO[bytes]) -> tuple[int, ...]:
    """Returns size and times of an open file, which change whenever it is written to."""
    status = os.fstat(file.fileno())
    # Programs cannot set the last time, unlike the one before it. It also changes when another
    # file takes the name of this one; that such a load is refused does no harm.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
