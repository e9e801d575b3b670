"""`Encoder`: a bundle in memory, inputs to vectors."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lame_runtime.backends.base import Backend
from lame_runtime.batching import assemble, plan_batches
from lame_runtime.bundle import Bundle
from lame_runtime.contract.manifest import check_files
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.contract.vectors import PRECISIONS, Precision, finish, quantize
from lame_runtime.errors import BackendError, InputError
from lame_runtime.inputs import InputLike, as_input
from lame_runtime.opening import BackendName, Wanted, open_backend, without_plans
from lame_runtime.plans import Build

MAX_BATCH = 65_536
MAX_WORKERS = 64
_WINDOW_BATCHES = 16
"""How many batches of a stream are held and sorted together."""


class Encoder:
    """Turns texts, pictures, videos and mixes of them into unit vectors.

    Args:
        preparer: the contract and tokenizer.
        backend: what runs the graphs.
        graph: name of the graph, for messages.
    """

    def __init__(self, preparer: Preparer, backend: Backend, graph: str = "") -> None:
        self.preparer = preparer
        self.backend = backend
        self.graph = graph
        self.reason = ""
        """Why this backend and graph were chosen, for `info`."""
        self.build: Build | None = None
        """The build whose plans run, on TensorRT."""
        self.bundle: Bundle | None = None
        self._largest: dict[int, float] = {}

    @staticmethod
    def load(
        bundle: str | os.PathLike[str],
        *,
        backend: BackendName = "auto",
        graph: str | None = None,
        threads: int | None = None,
        check_hashes: bool = True,
        map_weights: bool = False,
        trust_plans: bool = False,
        prove_plans: bool = True,
        gpu: int = 0,
        workers: int = 1,
        cuda_graphs: bool = False,
        engines: str | os.PathLike[str] | None = None,
    ) -> Encoder:
        """Loads a bundle.

        Args:
            bundle: the folder that `lame-export` wrote.
            backend: "onnxruntime" runs on the CPU, "onnxruntime-gpu" on a CUDA GPU, "tensorrt" and "tensorrt-rtx" the plans that
                `lame-export engine` built; "auto" takes plans where there are any for this device, else the GPU where ONNX
                Runtime offers one, else the CPU. An explicit choice never falls back.
            graph: which of the bundle's graphs; by default "fp32" on a CPU and "fp16" on a GPU.
            threads: CPU threads; None leaves it to ONNX Runtime (all cores).
            check_hashes: verify the sha256 of contract, tokenizer and the graphs used.
            map_weights: on a CPU, leave the weights mapped from the disk instead of unpacking them: large bundles load at
                once, in almost no memory that other processes could not share, and run at about half the speed.
            trust_plans: load TensorRT plans that were not built by this account on this machine. A plan is code.
            prove_plans: run the golden vectors before plans are first used on a device; see `device_check`.
            gpu: which GPU runs plans, as CUDA counts them.
            workers: threads that run plans at the same time.
            cuda_graphs: record and replay what plans do; for small batches of short inputs.
            engines: where plans lie; without it in the bundle, or in the user's cache.

        Raises:
            BundleError: see `lame_runtime.errors`.
            BackendError: the backend is not installed or not available, or plans are not right here; the message says why.
        """
        cores = os.cpu_count() or 1
        if threads is not None and not (isinstance(threads, int) and 1 <= threads <= cores):
            raise InputError(f"threads is {threads!r}: use 1 to {cores}, or leave it out for all cores")
        if not isinstance(workers, int) or not 1 <= workers <= MAX_WORKERS:
            raise InputError(f"workers is {workers!r}: use 1 to {MAX_WORKERS}")
        opened_bundle = Bundle.open(Path(bundle))
        wanted = Wanted(
            backend,
            graph,
            threads,
            check_hashes,
            map_weights,
            trust_plans,
            gpu,
            workers,
            cuda_graphs,
            None if engines is None else Path(engines),
        )
        preparer = Preparer.load(opened_bundle.folder)
        opened = open_backend(opened_bundle, wanted)
        encoder = Encoder(preparer, opened.backend, opened.graph)
        encoder.reason, encoder.build, encoder.bundle = opened.reason, opened.build, opened_bundle
        if not check_hashes:
            encoder.reason += "; hashes not checked, as asked"
        if opened.build is not None and prove_plans:
            from lame_runtime.device_check import require_proof

            try:
                encoder.reason += f"; {require_proof(encoder, opened_bundle, opened.build)}"
            except BackendError as error:
                encoder.close()
                if backend != "auto":
                    raise
                opened = without_plans(opened_bundle, wanted, str(error))
                encoder = Encoder(preparer, opened.backend, opened.graph)
                encoder.reason, encoder.bundle = opened.reason, opened_bundle
            except BaseException:
                encoder.close()
                raise
        return encoder

    @property
    def dim(self) -> int:
        """Length P of the vectors."""
        return self.preparer.contract.dim

    def encode(
        self,
        inputs: InputLike | Iterable[InputLike],
        *,
        role: str | None = None,
        batch_size: int = 32,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        truncate: bool = False,
        max_pixels: int | None = None,
        max_frames: int | None = None,
        fps: float | None = None,
        max_input_pixels: int | None = None,
        precision: Precision = "float32",
        sort: bool = True,
        show_progress_bar: bool = False,
    ) -> npt.NDArray[Any]:
        """Embeds one input or a list of them.

        Args:
            inputs: see `inputs.InputLike`; one input counts as a list of one.
            role: "query" or "document" adds the contract's instruction of that role; None adds none.
            batch_size: inputs per run of the graph.
            truncate_dim: keep only so many leading values.
            normalize_embeddings: unit length.
            truncate: cut texts that are too long instead of refusing them.
            max_pixels: pixels of a picture or a video's frame after resizing, instead of the contract's.
            max_frames: frames sampled from a video, instead of the contract's.
            fps: frames sampled per second of video, instead of the contract's.
            max_input_pixels: pixels of all pictures and videos of one input together, instead of the contract's patches.
            precision: "float32", or fewer bits: "int8", "uint8", "binary", "ubinary"; see `contract.vectors.quantize`. The range of
                8 bits is that of the bundle's golden vectors, the same for all vectors of a bundle and `truncate_dim`.
            sort: batch inputs of like length and grid together; the result keeps the input order.
            show_progress_bar: on stderr.

        Returns:
            (n, dim) of the precision's type, (n, ⌈dim/8⌉) for bits; row i for input i.

        Raises:
            InputError: an input cannot be embedded; the message names it.
            BackendError: the graph failed or returned a non-finite value.
        """
        vectors = self.stream(
            inputs,
            role=role,
            batch_size=batch_size,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            truncate=truncate,
            max_pixels=max_pixels,
            max_frames=max_frames,
            fps=fps,
            max_input_pixels=max_input_pixels,
            precision=precision,
            sort=sort,
        )
        if show_progress_bar:
            from tqdm import tqdm  # 50 ms that importing the package need not pay

            vectors = tqdm(vectors, total=len(inputs) if isinstance(inputs, Sized) else None, unit="input")
        rows = list(vectors)
        if not rows:
            nothing = np.empty((0, self.dim), dtype=np.float32)
            return self._fewer_bits(finish(nothing, truncate_dim=truncate_dim, normalize=normalize_embeddings), precision)
        return np.stack(rows)

    def encode_query(self, inputs: InputLike | Sequence[InputLike], **options: Any) -> npt.NDArray[Any]:
        """`encode` with the query role's instruction."""
        return self.encode(inputs, role="query", **options)

    def encode_document(self, inputs: InputLike | Sequence[InputLike], **options: Any) -> npt.NDArray[Any]:
        """`encode` with the document role's instruction."""
        return self.encode(inputs, role="document", **options)

    def stream(
        self,
        inputs: InputLike | Iterable[InputLike],
        *,
        role: str | None = None,
        batch_size: int = 32,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        truncate: bool = False,
        max_pixels: int | None = None,
        max_frames: int | None = None,
        fps: float | None = None,
        max_input_pixels: int | None = None,
        precision: Precision = "float32",
        sort: bool = True,
    ) -> Iterator[npt.NDArray[Any]]:
        """Like `encode`, for an iterable that need not fit in memory: yields one vector per input, in order.

        Inputs are read 16 batches ahead and sorted within that window.
        """
        if not isinstance(batch_size, int) or not 1 <= batch_size <= MAX_BATCH:
            raise InputError(f"batch_size is {batch_size!r}: use 1 to {MAX_BATCH}")
        if isinstance(inputs, str | os.PathLike | Image.Image | Mapping | Input):
            inputs = [inputs]
        elif not isinstance(inputs, Iterable) or isinstance(inputs, bytes):
            raise InputError(f"a {type(inputs).__name__} is not an input: give a str, a path, a PIL picture, a dict, or a list of them")
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}: use {', '.join(PRECISIONS)}")
        if precision != "float32" and not normalize_embeddings:
            raise InputError(f"precision {precision} is for unit vectors; leave normalize_embeddings on")
        preparer = self.preparer.with_budget(max_pixels, max_frames, fps, max_input_pixels)
        iterator = iter(inputs)
        count = 0
        while window := list(itertools.islice(iterator, batch_size * _WINDOW_BATCHES)):
            prepared = []
            for offset, item in enumerate(window):
                try:
                    prepared.append(preparer(as_input(item), role, truncate=truncate))
                except InputError as error:
                    raise InputError(f"input {count + offset}: {error}") from None
            vectors = np.empty((len(window), self.dim), dtype=np.float32)
            for chosen in plan_batches(prepared, batch_size, sort=sort):
                vectors[chosen] = self.backend.run(assemble([prepared[i] for i in chosen], self.preparer.contract))
            yield from self._fewer_bits(finish(vectors, truncate_dim=truncate_dim, normalize=normalize_embeddings), precision)
            count += len(window)

    def _fewer_bits(self, vectors: npt.NDArray[np.float32], precision: Precision) -> npt.NDArray[Any]:
        if precision == "float32":
            return vectors
        largest = self._largest_value(vectors.shape[1]) if precision in ("int8", "uint8") else 1.0
        return quantize(vectors, precision, largest)

    def _largest_value(self, dim: int) -> float:
        """Largest absolute value of the golden vectors, cut to `dim` values."""
        if dim not in self._largest:
            if self.bundle is None:
                raise InputError("the range of int8 vectors comes from a bundle; load one with Encoder.load")
            check_files(self.bundle.folder, self.bundle.manifest, ["golden/embeddings.npy"])
            golden = np.load(self.bundle.folder / "golden/embeddings.npy", allow_pickle=False)
            self._largest[dim] = float(np.abs(finish(golden, truncate_dim=dim)).max())
        return self._largest[dim]

    def close(self) -> None:
        """Releases the graphs."""
        self.backend.close()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
