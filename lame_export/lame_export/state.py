"""Defines the state that the passes of an export share: paths, options and results so far."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lame_runtime.bundle.certificate import Island, Result
from lame_runtime.errors import ExportError, UsageError, shown

from lame_export.parity.calibration_inputs import CALIBRATION
from lame_export.parity.golden_set import PER_MODALITY
from lame_export.quantization.search import STRENGTHS, QuantConfig, Trial

if TYPE_CHECKING:
    import onnx_ir as ir
    from lame_runtime.bundle.golden import Golden
    from lame_runtime.encoder import Encoder
    from lame_training.model.lame import LaMEModel

    from lame_export.quantization.quantizer import Quantizer

GRAPHS = ("fp32", "fp32-cpu", "fp16", "int8", "int8-cpu", "w8-cpu", "w4-cpu")
"""Graphs that can be exported."""
DEFAULT_GRAPHS = GRAPHS[:5]
"""Graphs of a bundle by default."""


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
    strengths: tuple[float, ...] = STRENGTHS
    """Strengths of the smoothing before INT8 to try, 0 to 1; with one there is no search."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.graphs) - set(GRAPHS)):
            raise UsageError(f"unknown graph {shown(repr(unknown[0]))}: use {', '.join(GRAPHS)}")
        if not self.graphs:
            raise UsageError(f"`graphs` is empty: name some of {', '.join(GRAPHS)}")
        for name in ("per_modality", "calibration"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` is {getattr(self, name)}: use 1 or more")
        if not self.strengths or not all(0 <= strength <= 1 for strength in self.strengths):
            raise UsageError(f"`strengths` is {self.strengths}: use values from 0 to 1")


@dataclass
class ExportState:
    """Holds the state of one export. Fields that are not set yet raise `AttributeError`."""

    checkpoint: Path
    data: Path
    folder: Path
    """The bundle under construction."""
    options: ExportOptions = field(default_factory=ExportOptions)
    stop_on_failure: bool = True
    """Whether a row that fails its gate ends the export; `verify` collects all rows instead."""
    model: LaMEModel = field(init=False)
    reference: Encoder = field(init=False)
    """PyTorch behind the runtime's `Encoder`, which every graph is compared with."""
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
