"""Searches for islands: layers that bring a graph back when computed at higher precision.

An island of an FP16 graph is computed in FP32, like the FP32 islands that `rewrites.half` makes. An
island of an INT8 graph is computed with activations that are not quantized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.contract.batch import Batch, Floats
from lame_runtime.parity.compare import similarity

from lame_export.bisect.bisection_result import ERROR_LIMITS, ModalityResult, meets_gate
from lame_export.bisect.graph_errors import as_judged, graph_errors, onnxruntime_runner
from lame_export.bisect.module_outputs import ModuleOutput
from lame_export.forward.layers import Affine
from lame_export.parity.judged import EMULATED

MAX_ISLANDS = 8
"""The search gives up beyond this many layers: each one costs a run of the whole graph."""
LIMIT_OVER_NOISE = 100
"""Errors below the graph's limit divided by this are ordinary rounding and start no jump."""


@dataclass(frozen=True)
class Subject:
    """A graph to be brought back, and what it is run on."""

    graph: str
    models: Mapping[str, ir.Model]
    """The graph's two parts."""
    outputs: Sequence[ModuleOutput]
    """The values that were compared."""
    batches: Mapping[str, Batch]
    """Inputs by modality."""
    expected: Mapping[str, Floats]
    """PyTorch's embeddings by modality."""
    width: int
    """Length of a row of picture features."""


def error_jumps(
    errors: Mapping[str, float], graph: str, *, skip_same_block: bool = False
) -> dict[str, float]:
    """Returns, by module, its error as a multiple of the largest error before it.

    Both sides run freely, each on its own earlier results. An error therefore grows with depth, and
    jumps at a layer that is wrong.

    Args:
        errors: relative errors by module, in the order of the graph.
        graph: name of the graph, which decides the smallest error that counts.
        skip_same_block: ignore earlier errors of the same block, whose layers may share a cause.
            Modules outside the blocks, such as "encoder.head", have no such neighbors.
    """
    jumps: dict[str, float] = {}
    noise = ERROR_LIMITS[graph] / LIMIT_OVER_NOISE
    for name, error in errors.items():
        block = name.rsplit(".", 1)[0]
        # The block of "encoder.blocks.3.down" has a dot; that of "encoder.head" is the part.
        skip = skip_same_block and "." in block
        earlier = [errors[other] for other in jumps if not (skip and other.startswith(f"{block}."))]
        jumps[name] = error / max([noise, *earlier])
    return jumps


def find_islands(subject: Subject, results: Sequence[ModalityResult]) -> list[str] | None:
    """Finds layers that make every modality meet its gate when computed at higher precision.

    Linear layers are added in the order of their jumps until all gates are met. Then each layer
    that turns out not to be needed is dropped again.

    Args:
        subject: the graph.
        results: what the comparison found for each modality.

    Returns:
        Names of the layers; an empty list if all gates are met as it is, None if no set of at most
        `MAX_ISLANDS` layers helps or the graph has no layers that could be widened.
    """
    failed = [result.modality for result in results if not result.passed]
    if not failed:
        return []
    # Graphs for ONNX Runtime's CPU provider have no layer that could be widened by itself.
    if subject.graph not in EMULATED:
        return None
    ranked = _rank_layers(subject, results)
    for count in range(1, len(ranked) + 1):
        if _meets_gates(subject, ranked[:count], failed):
            return _without_needless(subject, ranked[:count], failed)
    return None


def _rank_layers(subject: Subject, results: Sequence[ModalityResult]) -> list[str]:
    """Returns the linear layers with the largest jumps in any modality, largest first."""
    # In an INT8 graph only linear layers are quantized, so only they can be islands.
    linear = Affine.__name__
    layers = [output.name for output in subject.outputs if output.module == linear]
    jumps = [error_jumps(result.errors, subject.graph, skip_same_block=True) for result in results]
    largest = {name: max(by_name.get(name, 0.0) for by_name in jumps) for name in layers}
    return sorted(largest, key=largest.__getitem__, reverse=True)[:MAX_ISLANDS]


def _without_needless(subject: Subject, islands: list[str], failed: Sequence[str]) -> list[str]:
    """Drops, one by one, the islands without which the gates are met as well."""
    # The last island is needed: without it, the search would have ended one step earlier.
    for name in islands[:-1]:
        fewer = [other for other in islands if other != name]
        if _meets_gates(subject, fewer, failed):
            islands = fewer
    return islands


def _meets_gates(subject: Subject, islands: Sequence[str], modalities: Sequence[str]) -> bool:
    """Returns whether the graph with these islands meets the gates of these modalities."""
    layers = [output for output in subject.outputs if output.name in islands]
    models = {
        part: as_judged(
            subject.models[part],
            subject.graph,
            [layer.path for layer in layers if layer.part == part],
        )
        for part in PARTS
    }
    # Without module outputs: only the embeddings decide, and those runs are faster.
    run_part = onnxruntime_runner(models, [])
    # Modalities that met their gate without islands are not run again: islands only add precision.
    for modality in modalities:
        _, vectors = graph_errors(run_part, [], subject.batches[modality], {}, subject.width)
        figure = similarity(vectors, subject.expected[modality])
        if not meets_gate(subject.graph, figure):
            return False
    return True
