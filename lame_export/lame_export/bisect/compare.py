"""`lame-export bisect`: where a graph leaves PyTorch, layer by layer, per modality, and what would bring it back.

PyTorch runs the forward that was traced, with a hook on every module; the graph runs with the same values as outputs.
Both run freely, each on its own earlier results, so an error grows with depth and jumps where something is wrong. The
layers behind the largest jumps are then computed more carefully, one after the other, until the gate is met; those that
turn out not to be needed are left as they were.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from lame_runtime.backends.base import Batch, Floats
from lame_runtime.batching import assemble
from lame_runtime.bundle import PARTS, Bundle
from lame_runtime.compare import similarity
from lame_runtime.contract import Preparer
from lame_runtime.errors import InputError
from lame_runtime.gates import GRAPH_VS_PYTORCH, judge
from lame_runtime.golden import read_golden

from lame_export.bisect.device import Probe
from lame_export.bisect.values import Point, RunPart, as_run, graph_errors, on_cpu, points_of, torch_values
from lame_export.engine.build import BUILDABLE
from lame_export.parity import TracedBackend
from lame_export.passes.scopes import SCALED
from lame_export.steps import EMULATED
from lame_export.streamed import Feeds

LEAVES = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.25, "int8-cpu": 0.25, "w8-cpu": 0.25, "w4-cpu": 0.5}
"""Relative error of a value from which on a graph has left PyTorch; errors below a hundredth of it are how the graph is."""
MOST_ISLANDS = 8


@dataclass(frozen=True)
class Modality:
    """What one modality's inputs showed."""

    modality: str
    inputs: int
    errors: dict[str, float]
    """Relative error by point, in the order of the graph."""
    figure: dict[str, float]
    """Cosines of the embeddings against PyTorch's."""
    passed: bool
    first: str | None
    """The first point beyond the graph's limit."""
    jump: str
    """The point whose error is the largest multiple of all errors before it."""


@dataclass(frozen=True)
class Bisected:
    """The outcome."""

    graph: str
    modalities: list[Modality]
    islands: list[str] | None
    """Layers which, computed more carefully, bring the graph back; empty where it never left, None where they do not."""
    on_device: bool = False
    """Run by TensorRT, where no islands are tried."""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def bisect(bundle: Path, checkpoint: Path, graph: str, inputs: int = 4, trt: Any = None) -> Bisected:
    """Compares a bundle's graph with its checkpoint.

    Args:
        bundle: whose graph and golden inputs are used.
        checkpoint: what it was exported from.
        graph: its name.
        inputs: golden inputs of each modality.
        trt: a TensorRT module, to run the graph on the GPU; None runs it on ONNX Runtime, as a CPU judges it.

    Raises:
        BundleError, InputError: as for `lame-export verify`.
    """
    from lame_training.torch_backend import load_encoder_and_model

    opened = Bundle.open(bundle)
    paths = dict(zip(PARTS, opened.graph_paths(graph), strict=True))
    models = {part: ir.load(path) for part, path in paths.items()}
    named = "fp32" if "fp32" in opened.graphs else graph
    names = {part: ir.load(path) for part, path in zip(PARTS, opened.graph_paths(named), strict=True)}
    _, model = load_encoder_and_model(checkpoint)
    batches = _batches(bundle, inputs)
    reference = TracedBackend(model)
    if trt is None:
        return compare(reference, names, models, graph, batches)
    if graph not in BUILDABLE:
        raise InputError(f"{graph} is for ONNX Runtime on CPUs, or unknown; TensorRT runs {', '.join(BUILDABLE)}")
    points = {part: {point.value for point in points_of(part, names[part], reference.module(part))} for part in PARTS}
    probe = Probe(paths, points, _all_feeds(reference, batches), trt)
    try:
        return compare(reference, names, models, graph, batches, probe.run)
    finally:
        probe.close()


def _all_feeds(reference: TracedBackend, batches: dict[str, Batch]) -> dict[str, list[Feeds]]:
    """Feeds of the shapes that every run will have."""
    vision = [piece.vision_feeds() for batch in batches.values() for group in batch.groups for piece in group.pieces()]
    return {"vision": vision, "encoder": [batch.encoder_feeds(reference.features(batch)) for batch in batches.values()]}


def _batches(bundle: Path, inputs: int) -> dict[str, Batch]:
    """Golden inputs by modality, as one batch each."""
    if inputs < 1:
        raise InputError(f"--inputs {inputs}: use 1 or more")
    golden, preparer = read_golden(bundle), Preparer.load(bundle)
    found = {}
    for modality in golden.modalities:
        chosen = [golden.inputs[index] for index in golden.of(modality)[:inputs]]
        found[modality] = assemble([preparer(each.item, each.role) for each in chosen], preparer.contract)
    return found


def compare(
    reference: TracedBackend,
    names: dict[str, ir.Model],
    models: dict[str, ir.Model],
    graph: str,
    batches: dict[str, Batch],
    on_device: RunPart | None = None,
) -> Bisected:
    """Runs both sides.

    Args:
        reference: PyTorch.
        names: graphs as they were traced, which tell what module a value is of.
        models: the graph in question, by part.
        graph: its name, which chooses limit and gate.
        batches: inputs by modality.
        on_device: runs a part elsewhere than on ONNX Runtime.
    """
    scaled = {part: {node.outputs[0].name for node in models[part].graph if SCALED in node.metadata_props} for part in PARTS}
    points = [
        replace(point, scaled=point.value in scaled[part])
        for part in PARTS
        for point in points_of(part, names[part], reference.module(part))
    ]
    run_part = on_device or on_cpu({part: as_run(models[part], graph, ()) for part in PARTS}, points)
    found = []
    truths = {}
    for modality, batch in batches.items():
        judged, truths[modality] = _compared(reference, run_part, points, graph, modality, batch)
        found.append(judged)
    if on_device is not None:
        return Bisected(graph, found, None, on_device=True)
    return Bisected(graph, found, _islands(models, graph, points, found, batches, truths, reference.width))


def _compared(
    reference: TracedBackend, run_part: RunPart, points: list[Point], graph: str, modality: str, batch: Batch
) -> tuple[Modality, Floats]:
    """One modality, and PyTorch's embeddings: all else it computed is given up here, as a large model's fill the memory."""
    embeddings, values = torch_values(reference, batch)
    errors, vectors = graph_errors(run_part, points, batch, values, reference.width)
    return _judge(modality, graph, points, errors, vectors, embeddings), embeddings


def _judge(modality: str, graph: str, points: list[Point], errors: dict[str, float], vectors: Floats, expected: Floats) -> Modality:
    figure = similarity(vectors, expected)
    errors = {point.name: errors[point.name] for point in points if point.name in errors}
    passed = judge("", graph, modality, len(vectors), GRAPH_VS_PYTORCH[graph], figure).passed is True
    first = next((name for name, error in errors.items() if error > LEAVES[graph]), None)
    return Modality(
        modality,
        len(vectors),
        errors,
        figure,
        passed,
        first,
        max(jumps(errors, graph).items(), key=lambda each: each[1], default=("", 0.0))[0],
    )


def jumps(errors: dict[str, float], graph: str, *, beside: bool = False) -> dict[str, float]:
    """By point, its error as a multiple of the largest before it.

    Args:
        errors: in the order of the graph.
        graph: its name, which chooses the least error that counts.
        beside: leave out errors of the same block, whose layers may share what is wrong; what lies outside the blocks,
            as "encoder.head" does, has no such neighbours.
    """
    found = {}
    for place, (name, error) in enumerate(errors.items()):
        block = name.rsplit(".", 1)[0]
        inside = beside and "." in block
        before = [each for other, each in list(errors.items())[:place] if not (inside and other.startswith(f"{block}."))]
        found[name] = error / max(*before, LEAVES[graph] / 100, 0.0)
    return found


def _islands(
    models: dict[str, ir.Model],
    graph: str,
    points: list[Point],
    found: list[Modality],
    batches: dict[str, Batch],
    truths: dict[str, Floats],
    width: int,
) -> list[str] | None:
    """Layers with which every modality meets the gate: taken by their jumps until it does, then each dropped that it does without."""
    left = [each.modality for each in found if not each.passed]
    if not left:
        return []
    if graph not in EMULATED:
        return None
    layers = {point.name: point for point in points if point.module == "Affine"}
    worst = {name: max(jumps(each.errors, graph, beside=True).get(name, 0.0) for each in found) for name in layers}

    def mended(taken: list[str]) -> bool:
        careful = {part: [layers[each].path for each in taken if layers[each].part == part] for part in PARTS}
        run_part = on_cpu({part: as_run(models[part], graph, careful[part]) for part in PARTS}, [])
        for modality in left:
            _, vectors = graph_errors(run_part, [], batches[modality], {}, width)
            figure = similarity(vectors, truths[modality])
            if judge("", graph, modality, len(vectors), GRAPH_VS_PYTORCH[graph], figure).passed is not True:
                return False
        return True

    ranked = sorted(worst, key=worst.__getitem__, reverse=True)[:MOST_ISLANDS]
    count = next((count for count in range(1, len(ranked) + 1) if mended(ranked[:count])), None)
    if count is None:
        return None
    kept = ranked[:count]
    for name in ranked[: count - 1]:  # the last one brought it about
        without = [each for each in kept if each != name]
        kept = without if mended(without) else kept
    return kept
