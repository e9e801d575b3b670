"""Quantizes a traced model by a configuration, and measures what it costs: `search` drives it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.bundle.golden import Golden
from lame_runtime.contract.batch import Batch, Floats
from lame_runtime.encoder import Encoder
from lame_runtime.errors import BackendError
from lame_runtime.parity.compare import graph_rows

from lame_export.parity.calibration_inputs import RoleInput
from lame_export.quantization.calibration import Scan, scan_batches
from lame_export.quantization.cpu_int8 import quantize_cpu
from lame_export.quantization.search import Cost, QuantConfig, cost_of
from lame_export.quantization.smoothing import smooth
from lame_export.quantization.static_int8 import quantize_static
from lame_export.rewrites.emulate import emulate
from lame_export.rewrites.fuse import fuse
from lame_export.rewrites.half import Island, type_fp16
from lame_export.streaming.pieces import copy_of
from lame_export.streaming.streamed_backend import DEFAULT, Resources, StreamedBackend

Models = dict[str, ir.Model]
"""Graphs in memory, by part ("vision", "encoder")."""
ALONE = 2
"""Number of trial inputs per modality that are also embedded alone."""


@dataclass
class Quantizer:
    """Makes quantized graphs of a traced model, which stays as it is, and measures them."""

    traced: Models
    """The FP32 graphs."""
    scans: dict[str, Scan]
    """Ranges that calibration measured in them, by part."""
    batches: Iterable[tuple[str, Batch]]
    """Calibration inputs, each batch with its modality: a smoothed graph is scanned again."""
    reference: Encoder
    """PyTorch, whose embeddings are the expected ones."""
    trial: dict[str, list[RoleInput]]
    """Inputs that configurations are measured on, by modality; none is a calibration input."""
    resources: Resources = DEFAULT
    """Memory and disk that running graphs may use."""
    _smoothed: dict[float, tuple[Models, dict[str, Scan]]] = field(default_factory=dict)
    _expected: Floats | None = None
    """PyTorch's embeddings of the trial inputs, once they are computed."""

    def smoothed(self, strength: float) -> tuple[Models, dict[str, Scan]]:
        """Returns the FP32 graphs smoothed by `strength`, and their scans."""
        if not strength:
            return self.traced, self.scans
        # kept for the next configuration: to scan again takes longer than all rewrites
        if strength not in self._smoothed:
            models = {part: copy_of(self.traced[part]) for part in PARTS}
            for part, model in models.items():
                smooth(model, self.scans[part].channels, strength)
            self._smoothed[strength] = (
                models,
                scan_batches(models, self.batches, self.resources.scratch),
            )
        return self._smoothed[strength]

    def int8(self, config: QuantConfig) -> tuple[Models, dict[str, list[Island]]]:
        """Returns half-precision graphs with Q/DQ around linear layers, and their FP32 islands."""
        smoothed, scans = self.smoothed(config.strength)
        models: Models = {}
        islands: dict[str, list[Island]] = {}
        for part in PARTS:
            models[part] = copy_of(smoothed[part])
            # types first: the scan knows values of the FP32 graph, and Q/DQ takes over their types
            islands[part] = type_fp16(models[part], scans[part].amax)
            quantize_static(
                models[part],
                scans[part].ranges(config.percentile),
                config.half_layers,
                skip_ends=config.half_ends,
            )
        return models, islands

    def int8_cpu(self, config: QuantConfig) -> Models:
        """Returns graphs of integer products and fused operators for ONNX Runtime on CPUs."""
        smoothed, scans = self.smoothed(config.strength)
        models: Models = {}
        for part in PARTS:
            models[part] = copy_of(smoothed[part])
            # first, since `fuse` finds attention by MatMuls of linear layers, which are replaced
            fuse(models[part])
            quantize_cpu(models[part], scans[part].ranges(config.percentile), config.static_layers)
        return models

    def encoder(self, graph: str, config: QuantConfig) -> Encoder:
        """Returns an encoder that runs the quantized graph as it is judged.

        Args:
            graph: "int8", which is emulated and run node by node as it is written, or "int8-cpu",
                which runs as it will on the user's CPU.
            config: how it is quantized.
        """
        if graph == "int8":
            models, _ = self.int8(config)
            for model in models.values():
                emulate(model)
        else:
            models = self.int8_cpu(config)
        # not optimized: ONNX Runtime may fuse Q/DQ into integer kernels of its own, and it is
        # TensorRT's arithmetic that is emulated
        backend = StreamedBackend(
            models["vision"], models["encoder"], optimize=graph != "int8", resources=self.resources
        )
        return Encoder(self.reference.preparer, backend, graph)

    def measure(self, graph: str, config: QuantConfig) -> Cost:
        """Measures what a configuration costs on the trial inputs.

        Returns:
            The cost; every figure is NaN if the graph gives a value that is not finite.
        """
        # those that are embedded alone, too, come first: `cost_of` compares them row by row
        first = [
            (modality, entry) for modality, some in self.trial.items() for entry in some[:ALONE]
        ]
        others = [
            (modality, entry) for modality, some in self.trial.items() for entry in some[ALONE:]
        ]
        modalities = [modality for modality, _ in first + others]
        inputs = [entry for _, entry in first + others]
        if self._expected is None:
            self._expected = _embed(self.reference, inputs)
        with self.encoder(graph, config) as encoder:
            try:
                alone = np.concatenate([_embed(encoder, [entry]) for _, entry in first])
                return cost_of(modalities, _embed(encoder, inputs), self._expected, alone)
            except BackendError:
                # the runtime refuses embeddings that are not finite; the search goes on without it
                return Cost(dict.fromkeys(self.trial, np.nan), np.nan, np.nan, np.nan)

    def prove(self, graph: str, config: QuantConfig, golden: Golden) -> bool:
        """Returns whether the quantized graph meets every gate that the golden inputs decide."""
        with self.encoder(graph, config) as encoder:
            # None is a row without a gate, which reports a figure and decides nothing
            return all(row.passed is not False for row in graph_rows(encoder, graph, golden))


def _embed(encoder: Encoder, inputs: Sequence[RoleInput]) -> Floats:
    """Embeds each input in its role: float32 (n, P), rows in the inputs' order."""
    # one call per role, since `encode` takes one role for all of its inputs
    vectors = np.empty((len(inputs), encoder.dim), dtype=np.float32)
    for role in dict.fromkeys(role for role, _ in inputs):
        rows = [row for row, (other, _) in enumerate(inputs) if other == role]
        vectors[rows] = encoder.encode([inputs[row][1] for row in rows], role=role)
    return vectors
