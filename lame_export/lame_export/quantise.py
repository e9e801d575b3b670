"""Quantises a model in a given way, and measures what a way costs: the bridge from `choice` to the passes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from lame_runtime.backends.base import Batch, Floats
from lame_runtime.bundle import PARTS
from lame_runtime.compare import graph_rows
from lame_runtime.encoder import Encoder
from lame_runtime.errors import BackendError
from lame_runtime.golden import Golden

from lame_export.calibration import Scan, scan_batches
from lame_export.choice import Cost, Way, cost_of
from lame_export.golden_set import Asked
from lame_export.passes.emulate import emulate
from lame_export.passes.fp16 import Island, type_fp16
from lame_export.passes.fused import fuse
from lame_export.passes.int8 import quantise_static
from lame_export.passes.int8_cpu import quantise_cpu
from lame_export.passes.smooth import smooth
from lame_export.streamed import StreamedBackend, copy_of

Models = dict[str, ir.Model]
"""By part."""
ALONE = 2
"""Of so many trial inputs of each modality the vector is computed alone as well."""


@dataclass
class Quantiser:
    """Makes quantised graphs of a traced model."""

    traced: Models
    scans: dict[str, Scan]
    batches: dict[str, list[Batch]]
    """What it was calibrated on, by modality: smoothed graphs are scanned anew."""
    reference: Encoder
    trial: dict[str, list[Asked]]
    """What ways are measured on, by modality."""
    _smoothed: dict[float, tuple[Models, dict[str, Scan]]] = field(default_factory=dict)
    _expected: Floats | None = None
    """PyTorch's vectors of the trial inputs."""

    def smoothed(self, strength: float) -> tuple[Models, dict[str, Scan]]:
        """The FP32 graphs, smoothed, and what calibration inputs reach in them."""
        if not strength:
            return self.traced, self.scans
        if strength not in self._smoothed:
            models = {part: copy_of(self.traced[part]) for part in PARTS}
            for part, model in models.items():
                smooth(model, self.scans[part].channels, strength)
            self._smoothed[strength] = models, scan_batches(models, self.batches)
        return self._smoothed[strength]

    def int8(self, way: Way) -> tuple[Models, dict[str, list[Island]]]:
        """Half precision with Q/DQ around linear layers, and the FP32 islands."""
        models, scans = self.smoothed(way.strength)
        made, islands = {}, {}
        for part in PARTS:
            made[part] = copy_of(models[part])
            islands[part] = type_fp16(made[part], scans[part].amax)
            quantise_static(made[part], scans[part].ranges(way.percentile), way.kept, ends=way.ends)
        return made, islands

    def int8_cpu(self, way: Way) -> Models:
        """Integer products and fused operators for ONNX Runtime's CPU provider."""
        models, scans = self.smoothed(way.strength)
        made = {}
        for part in PARTS:
            made[part] = copy_of(models[part])
            fuse(made[part])
            quantise_cpu(made[part], scans[part].ranges(way.percentile), way.static)
        return made

    def encoder(self, graph: str, way: Way) -> Encoder:
        """Runs the quantised graph as it is judged: "int8" on its emulation, node by node as it is written."""
        if graph == "int8":
            models, _ = self.int8(way)
            for model in models.values():
                emulate(model)
        else:
            models = self.int8_cpu(way)
        backend = StreamedBackend(models["vision"], models["encoder"], optimise=graph != "int8")
        return Encoder(self.reference.preparer, backend, graph)

    def measure(self, graph: str, way: Way) -> Cost:
        """What a way costs on the trial inputs; NaN where the graph gives a value that is not finite."""
        order = [(modality, each) for modality, some in self.trial.items() for each in some[:ALONE]]
        first = [each for _, each in order]
        order += [(modality, each) for modality, some in self.trial.items() for each in some[ALONE:]]
        asked = [each for _, each in order]
        if self._expected is None:
            self._expected = _embed(self.reference, asked)
        with self.encoder(graph, way) as encoder:
            try:
                alone = np.concatenate([_embed(encoder, [each]) for each in first])
                return cost_of([modality for modality, _ in order], _embed(encoder, asked), self._expected, alone)
            except BackendError:
                return Cost(dict.fromkeys(self.trial, np.nan), np.nan, np.nan, np.nan)

    def prove(self, graph: str, way: Way, golden: Golden) -> bool:
        """Whether the quantised graph meets every gate that the golden inputs decide."""
        with self.encoder(graph, way) as encoder:
            return all(row.passed is not False for row in graph_rows(encoder, graph, golden))


def _embed(encoder: Encoder, asked: list[Asked]) -> Floats:
    """Vectors, each input in its role: float32 (n, P)."""
    vectors = np.empty((len(asked), encoder.dim), dtype=np.float32)
    for role in dict.fromkeys(role for role, _ in asked):
        places = [place for place, (each, _) in enumerate(asked) if each == role]
        vectors[places] = encoder.encode([asked[place][1] for place in places], role=role)
    return vectors
