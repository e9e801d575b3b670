"""Defines the state that the passes of an export share: paths, options and results so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from lame_runtime.arguments import MAX_PIXELS, integer, number
from lame_runtime.bundle.certificate import Island, PassCost, Result
from lame_runtime.errors import ExportError, UsageError, shown
from lame_runtime.options import MAX_GIB

from lame_export.parity.calibration_inputs import CALIBRATION
from lame_export.parity.golden_set import PER_MODALITY
from lame_export.quantization.search import STRENGTHS, QuantConfig, Trial

if TYPE_CHECKING:
    import onnx_ir as ir
    from lame_runtime.bundle.golden import Golden
    from lame_runtime.encoder import Encoder
    from lame_training.model.lame import LaMEModel

    from lame_export.memory_plan import MemoryPlan
    from lame_export.quantization.quantizer import Quantizer
    from lame_export.streaming.streamed_backend import Resources

GRAPHS = ("fp32", "fp32-cpu", "fp16", "int8", "int8-cpu", "w8-cpu", "w4-cpu")
"""Graphs that can be exported."""
DEFAULT_GRAPHS = GRAPHS[:5]
"""Graphs of a bundle by default."""


class ExportKeywords(TypedDict, total=False):
    """The keywords of `export`; `ExportOptions` documents them."""

    per_modality: int
    calibration: int
    strengths: Sequence[float]
    memory: float | None
    max_length: int | None
    max_pixels: int | None
    form: str | None


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Holds the options of an export.

    Raises:
        UsageError: a value is out of range.
    """

    graphs: tuple[str, ...] = DEFAULT_GRAPHS
    per_modality: int = PER_MODALITY
    """Number of golden inputs of each modality; the certificate records it."""
    calibration: int = CALIBRATION
    """Number of calibration inputs of each modality."""
    strengths: Sequence[float] = STRENGTHS
    """Strengths of the smoothing before INT8 to try, 0 to 1; with one there is no search."""
    memory: float | None = None
    """Memory that the export may take, in GiB; None takes what the machine has available."""
    max_length: int | None = None
    """Longest input of a published embedder in tokens; None takes the folder's, at most 8,192."""
    max_pixels: int | None = None
    """Pixels of one picture of a published embedder after resizing; None keeps the folder's."""
    form: str | None = None
    """Form of a published embedder whose folder does not describe itself, such as "vlm2vec-v2"."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.graphs) - set(GRAPHS)):
            raise UsageError(f"unknown graph {shown(repr(unknown[0]))}: use {', '.join(GRAPHS)}")
        if not self.graphs:
            raise UsageError(f"`graphs` is empty: name some of {', '.join(GRAPHS)}")
        converted: dict[str, object] = {
            name: integer(name, getattr(self, name), 1) for name in ("per_modality", "calibration")
        }
        strengths = _listed(self.strengths)
        converted["strengths"] = tuple(number("strengths", value, 0, 1) for value in strengths)
        if not strengths:
            raise UsageError("`strengths` is empty: use values from 0 to 1")
        if self.memory is not None:
            converted["memory"] = number("memory", self.memory, 0.1, MAX_GIB)
        for name, most in (("max_length", 1 << 20), ("max_pixels", MAX_PIXELS)):
            if (value := getattr(self, name)) is not None:
                converted[name] = integer(name, value, 1, most)
        for name, value in converted.items():
            object.__setattr__(self, name, value)


def _listed(strengths: Any) -> list[Any]:
    """Returns strengths as a list; raises `UsageError` if there is no list of them."""
    # an array without axes is iterable by its type alone
    no_list = isinstance(strengths, str | bytes | dict) or getattr(strengths, "ndim", 1) == 0
    if isinstance(strengths, Iterable) and not no_list:
        return list(strengths)
    raise UsageError(f"`strengths` is {shown(repr(strengths))}: use a list of values from 0 to 1")


@dataclass
class ExportState:
    """Holds the state of one export. Fields that are not set yet raise `AttributeError`."""

    checkpoint: Path
    data: Path
    """An MMEB-style data set: that of the user, or the built-in one in the scratch folder."""
    folder: Path
    """The bundle under construction."""
    options: ExportOptions = field(default_factory=ExportOptions)
    scratch: Path | None = None
    """Folder for temporary files as large as the model; None takes the system's."""
    stop_on_failure: bool = True
    """Whether a row that fails its gate ends the export; `verify` collects all rows instead."""
    published: Path | None = None
    """The folder of the published embedder that `checkpoint` was imported from."""
    builtin_data: bool = False
    """Whether a pass writes the built-in data set to `data`."""
    model: LaMEModel = field(init=False)
    reference: Encoder = field(init=False)
    """PyTorch behind the runtime's `Encoder`, which every graph is compared with."""
    memory: MemoryPlan = field(init=False)
    """Memory that the export may take and hold; set with the model."""
    golden: Golden = field(init=False)
    traced: dict[str, ir.Model] = field(init=False)
    """The FP32 graphs by part; their weights are still those of the checkpoint."""
    quantizer: Quantizer = field(init=False)
    """Quantizes with the ranges that calibration measured."""
    configs: dict[str, QuantConfig] = field(init=False)
    """The configuration of each INT8 graph."""
    tried: list[Trial] = field(default_factory=list)
    """Every configuration that was tried, with its error."""
    islands: list[Island] = field(default_factory=list)
    """Tensors of half-precision graphs that are computed in FP32."""
    rows: list[Result] = field(default_factory=list)
    """The certificate's rows so far."""
    passes: list[PassCost] = field(default_factory=list)
    """Time and memory of the passes so far."""

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs of the bundle, in the order of `GRAPHS`."""
        return tuple(graph for graph in GRAPHS if graph in self.options.graphs)

    def path(self, part: str, graph: str) -> Path:
        """Returns the path of one ONNX file of the bundle."""
        return self.folder / "graphs" / f"{part}.{graph}.onnx"

    def save(self, model: ir.Model, part: str, graph: str) -> None:
        """Writes a graph, and its weights to one `.data` file beside it."""
        # deferred, because this module is imported for `--help` as well
        import onnx_ir as ir

        path = self.path(part, graph)
        ir.save(model, path, external_data=f"{path.name}.data")

    def add(self, rows: list[Result]) -> None:
        """Records rows of the certificate.

        Raises:
            ExportError: a gate is not met and `stop_on_failure` is set; the message names the first
                row.
        """
        self.rows += rows
        # `None` is a row without a gate
        failed = [row for row in rows if row.passed is False]
        if failed and self.stop_on_failure:
            row = failed[0]
            subject = " ".join((row.graph, row.modality)).strip()
            raise ExportError(f"gate not met: {row.comparison}, {subject}: {row.describe()}")

    @property
    def resources(self) -> Resources:
        """Memory and disk that graphs of this export may use."""
        from lame_export.streaming.streamed_backend import Resources

        return Resources(self.memory.keep, self.scratch)

    def is_set(self, name: str) -> bool:
        """Returns whether a field has been set."""
        return hasattr(self, name)

    def snapshot(self) -> dict[str, Any]:
        """Returns a value per field and file that changes if the field or file changes.

        Fields are represented by identity, and containers also by the identities of their items,
        because graphs and models are too large to compare.
        """
        snapshot: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name, None)
            contents: tuple[int, ...] = ()
            # a container that is changed in place keeps its own identity
            if isinstance(value, dict):
                contents = tuple(map(id, value.values()))
            elif isinstance(value, list):
                contents = tuple(map(id, value))
            snapshot[entry.name] = (id(value), contents)
        for path in self.folder.rglob("*"):
            if path.is_file():
                status = path.stat()
                name = path.relative_to(self.folder).as_posix()
                snapshot[f"file {name}"] = (status.st_size, status.st_mtime_ns)
        return snapshot
