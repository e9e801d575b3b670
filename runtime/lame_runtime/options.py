"""Defines the options of loading a bundle and of embedding inputs.

Each set of options exists twice: as a frozen dataclass with documented, validated fields, and as a
`TypedDict` of the same keywords, which lets editors and type checkers complete the calls that take
them (`Encoder.load`, `encode`, `stream`, `encode_query`, `encode_document`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, TypedDict

from lame_runtime.arguments import (
    MAX_FPS,
    MAX_PIXELS,
    MIN_FPS,
    choice,
    described,
    folder_path,
    integer,
    number,
    optional_text,
    switch,
)
from lame_runtime.contract.vectors import PRECISIONS, Precision
from lame_runtime.errors import UsageError

BackendName = Literal["auto", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx"]
BACKENDS: tuple[BackendName, ...] = (
    "auto",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
)
MAX_BATCH = 65_536
MAX_TOKENS = 1 << 30
MAX_DIM = 65_536
MAX_WORKERS = 64
MAX_GPUS = 1024
MAX_GIB = 1 << 20


class LoadKeywords(TypedDict, total=False):
    """The keywords of `Encoder.load`; `LoadOptions` documents them."""

    backend: BackendName
    graph: str | None
    threads: int | None
    check_hashes: bool
    map_weights: bool
    trust_plans: bool
    prove_plans: bool
    gpu: int
    workers: int
    cuda_graphs: bool
    memory: float | None
    engines: str | os.PathLike[str] | None


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Options of `Encoder.load`.

    Attributes:
        backend: "onnxruntime" runs on the CPU, "onnxruntime-gpu" on a CUDA GPU, "tensorrt" and
            "tensorrt-rtx" run the plans that `lame-export engine` built. "auto" takes plans if
            the bundle has any for this device, else the GPU if ONNX Runtime supports it, else the
            CPU. An explicit choice never falls back.
        graph: the bundle's graph to run; by default "fp32" on a CPU and "fp16" on a GPU.
        threads: CPU threads, at most as many as this process may use; None leaves the number to
            ONNX Runtime, which takes all cores.
        check_hashes: check the sha256 of the graph's files.
        map_weights: on a CPU, use weights memory-mapped from the disk instead of unpacking them.
            Large bundles then load immediately with little memory, and run at about half the
            speed.
        trust_plans: load TensorRT plans that another account or machine built. A plan is code.
        prove_plans: run the golden vectors before plans are first used on a device.
        gpu: index of the GPU that runs plans, as CUDA counts them.
        workers: number of threads that may run plans at the same time.
        cuda_graphs: record the kernels of plans as CUDA graphs and replay them, which helps with
            small batches of short inputs.
        memory: on a CPU, memory that weights and batches may take, in GiB; None takes what the
            machine has available. A graph that does not fit is refused before it is loaded.
        engines: folder of the TensorRT plans; None looks in the bundle and in the user's cache.

    Raises:
        UsageError: a value is out of range.
    """

    backend: BackendName = "auto"
    graph: str | None = None
    threads: int | None = None
    check_hashes: bool = True
    map_weights: bool = False
    trust_plans: bool = False
    prove_plans: bool = True
    gpu: int = 0
    workers: int = 1
    cuda_graphs: bool = False
    memory: float | None = None
    engines: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        # more threads than cores only wait for each other
        cores, rest = usable_cores(), ", or leave it out for all cores"
        converted: dict[str, object] = {
            "backend": choice("backend", self.backend, BACKENDS),
            "graph": optional_text("graph", self.graph),
            "threads": None
            if self.threads is None
            else integer("threads", self.threads, 1, cores, rest),
            "gpu": integer("gpu", self.gpu, 0, MAX_GPUS - 1),
            "workers": integer("workers", self.workers, 1, MAX_WORKERS),
            "memory": None if self.memory is None else number("memory", self.memory, 0.1, MAX_GIB),
            "engines": None if self.engines is None else folder_path("engines", self.engines),
        }
        for name in ("check_hashes", "map_weights", "trust_plans", "prove_plans", "cuda_graphs"):
            converted[name] = switch(name, getattr(self, name))
        _set_fields(self, converted)


def usable_cores() -> int:
    """Returns the number of cores that this process may use, which may be fewer than there are."""
    # containers and `taskset` limit a process to some of the machine's cores
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class EncodeKeywords(TypedDict, total=False):
    """The keywords of `Encoder.encode` and `stream`; `EncodeOptions` documents them."""

    role: str | None
    instruction: str | None
    prompt_name: str | None
    prompt: str | None
    batch_size: int
    batch_tokens: int | None
    truncate_dim: int | None
    normalize_embeddings: bool
    truncate: bool
    max_pixels: int | None
    max_frames: int | None
    fps: float | None
    max_input_pixels: int | None
    precision: Precision
    sort: bool
    workers: int | None


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Options of `Encoder.encode`, `stream`, `encode_query` and `encode_document`.

    Attributes:
        role: "query" or "document" adds the contract's instruction of that role; None adds none.
        instruction: the instruction of every input that has none of its own; it replaces that of
            the role. An empty string means no instruction.
        prompt_name: the name of `role` in Sentence Transformers.
        prompt: the name of `instruction` in Sentence Transformers.
        batch_size: inputs per run of the graph.
        batch_tokens: tokens per run, padding included, and two patches for each; a run ends at
            whichever limit comes first. None for what fits in memory.
        truncate_dim: number of leading values to keep, or None for all.
        normalize_embeddings: scale the vectors to unit length.
        truncate: cut texts that are too long instead of refusing them.
        max_pixels: pixels of a picture, or of a video's frame, after resizing; None for the
            contract's limit.
        max_frames: frames sampled from a video; None for the contract's limit.
        fps: frames sampled per second of video; None for the contract's rate.
        max_input_pixels: pixels of all pictures and videos of one input together; None for the
            contract's limit.
        precision: "float32", or fewer bits: "int8", "uint8", "binary", "ubinary" (see
            `lame_runtime.contract.vectors.quantize`). The range of 8 bits is that of the bundle's
            golden vectors, so it is the same for all vectors of a bundle and `truncate_dim`.
        sort: batch inputs of similar length and picture size together; the order of the result is
            that of the inputs in any case.
        workers: number of threads that prepare pictures and videos while the model runs; 0 and 1
            prepare them in the calling thread, and None takes as many as there are cores for this
            process, at most 8. Vectors and errors do not depend on it. Texts start no threads.

    Raises:
        UsageError: a value is out of range, or two arguments contradict each other.
    """

    role: str | None = None
    instruction: str | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: int = 32
    batch_tokens: int | None = None
    truncate_dim: int | None = None
    normalize_embeddings: bool = True
    truncate: bool = False
    max_pixels: int | None = None
    max_frames: int | None = None
    fps: float | None = None
    max_input_pixels: int | None = None
    precision: Precision = "float32"
    sort: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        converted: dict[str, object] = {
            "batch_size": integer("batch_size", self.batch_size, 1, MAX_BATCH),
            "precision": choice("precision", self.precision, PRECISIONS),
        }
        for name in ("role", "instruction", "prompt_name", "prompt"):
            converted[name] = optional_text(name, getattr(self, name))
        for name in ("normalize_embeddings", "truncate", "sort"):
            converted[name] = switch(name, getattr(self, name))
        # the smallest values depend on the contract, which checks them when a call begins
        for name in ("truncate_dim", "max_pixels", "max_frames", "max_input_pixels"):
            most = MAX_DIM if name == "truncate_dim" else MAX_PIXELS
            value = getattr(self, name)
            converted[name] = None if value is None else integer(name, value, 1, most)
        if self.batch_tokens is not None:
            converted["batch_tokens"] = integer("batch_tokens", self.batch_tokens, 1, MAX_TOKENS)
        if self.workers is not None:
            converted["workers"] = integer("workers", self.workers, 0, MAX_WORKERS)
        if self.fps is not None:
            converted["fps"] = number("fps", self.fps, MIN_FPS, MAX_FPS)
        _set_fields(self, converted)
        # the quantization range is that of unit vectors; longer vectors would be clipped
        if self.precision != "float32" and not self.normalize_embeddings:
            raise UsageError(
                f"`precision` {self.precision} is for unit vectors; leave `normalize_embeddings` on"
            )
        # equal values are accepted, because wrappers often pass both
        for ours, theirs in (("role", "prompt_name"), ("instruction", "prompt")):
            first, second = getattr(self, ours), getattr(self, theirs)
            if first is not None and second is not None and first != second:
                raise UsageError(
                    f"`{ours}` is {described(first)} and `{theirs}` is {described(second)}: "
                    "they are two names of one option, so give one of them"
                )

    @property
    def role_name(self) -> str | None:
        """The role, given as `role` or as `prompt_name`."""
        return self.prompt_name if self.role is None else self.role

    @property
    def default_instruction(self) -> str | None:
        """The instruction for inputs without one, given as `instruction` or as `prompt`."""
        return self.prompt if self.instruction is None else self.instruction


def _set_fields(options: LoadOptions | EncodeOptions, values: dict[str, object]) -> None:
    """Stores converted values in a frozen dataclass, before anyone else can see it."""
    for name, value in values.items():
        object.__setattr__(options, name, value)
