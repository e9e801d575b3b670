"""Compares a bundle's graph with its checkpoint layer by layer, for each modality.

PyTorch runs the forward that was traced, with a hook on every module. The graph runs with the same
values as outputs. At the end, the layers with the largest jumps of the error are computed at higher
precision until the graph meets its gate (`island_search`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from lame_runtime.bundle.bundle import PARTS, Bundle
from lame_runtime.bundle.golden import read_golden
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract.batch import Batch, Floats, assemble
from lame_runtime.errors import UsageError, shown
from lame_runtime.parity.compare import similarity

from lame_export.bisect.bisection_result import (
    ERROR_LIMITS,
    BisectionResult,
    ModalityResult,
    meets_gate,
)
from lame_export.bisect.graph_errors import RunPart, as_judged, graph_errors, onnxruntime_runner
from lame_export.bisect.instrumented_plans import InstrumentedPlans
from lame_export.bisect.island_search import Subject, error_jumps, find_islands
from lame_export.bisect.module_outputs import ModuleOutput, find_module_outputs, torch_values
from lame_export.engine.build import BUILDABLE
from lame_export.lint.foreign_graphs import check_graphs, translated
from lame_export.parity.traced_backend import TracedBackend
from lame_export.rewrites.scopes import SCALED
from lame_export.streaming.attention_blocks import Feeds


def bisect(
    bundle: Path, checkpoint: Path, graph: str, inputs: int = 4, trt: Any = None
) -> BisectionResult:
    """Compares a bundle's graph with the checkpoint that it was exported from.

    Args:
        bundle: holds the graph and the golden inputs.
        checkpoint: the PyTorch side.
        graph: name of the graph.
        inputs: golden inputs of each modality.
        trt: a TensorRT module, to run the graph on the GPU; None runs it on ONNX Runtime, emulated
            as for the certificate.

    Raises:
        BundleError: the bundle or the checkpoint cannot be used, or has no such graph.
        UsageError: `inputs` is below 1, or TensorRT cannot run the graph.
        ExportError, BackendError: TensorRT cannot build or run the graph.
    """
    if inputs < 1:
        raise UsageError(f"`inputs` is {inputs}: use 1 or more")
    opened = Bundle.open(bundle)
    if graph in opened.graphs and graph not in ERROR_LIMITS:
        raise UsageError(f"`graph` is {shown(repr(graph))}: use one of {', '.join(ERROR_LIMITS)}")
    check_graphs(opened)
    with translated(bundle):
        return _bisect(opened, checkpoint, graph, inputs, trt)


def _bisect(opened: Bundle, checkpoint: Path, graph: str, inputs: int, trt: Any) -> BisectionResult:
    """Compares a graph of a bundle that was opened; see `bisect`."""
    # Deferred: importing it loads PyTorch and transformers.
    from lame_training.model.torch_backend import load_encoder_and_model

    bundle = opened.folder
    paths = dict(zip(PARTS, opened.graph_paths(graph), strict=True))
    models = {part: ir.load(path) for part, path in paths.items()}
    # Only the FP32 graph has the nodes as they were traced; the others were rewritten, but most of
    # their values kept their names.
    traced_graph = "fp32" if "fp32" in opened.graphs else graph
    traced = {
        part: ir.load(path)
        for part, path in zip(PARTS, opened.graph_paths(traced_graph), strict=True)
    }
    _, model = load_encoder_and_model(checkpoint)
    batches = golden_batches(bundle, inputs)
    reference = TracedBackend(model, Contract.load(bundle / "contract.json"))
    if trt is None:
        return compare(reference, traced, models, graph, batches)
    if graph not in BUILDABLE:
        raise UsageError(
            f"`graph` is {graph!r}, which TensorRT cannot run; use {', '.join(BUILDABLE)}, or run "
            f"it on ONNX Runtime"
        )
    # All values are collected first, because a plan's outputs are fixed when it is built.
    values = {
        part: {
            output.value
            for output in find_module_outputs(part, traced[part], reference.module(part))
        }
        for part in PARTS
    }
    plans = InstrumentedPlans(paths, values, _all_feeds(reference, batches), trt)
    try:
        return compare(reference, traced, models, graph, batches, plans.run)
    finally:
        # Memory of the GPU is not garbage collected.
        plans.close()


def golden_batches(bundle: Path, inputs: int) -> dict[str, Batch]:
    """Returns the first golden inputs of each modality, as one batch each.

    Raises:
        UsageError: `inputs` is below 1.
        BundleError: the golden files cannot be read, or the contract refuses an input.
    """
    if inputs < 1:
        raise UsageError(f"`inputs` is {inputs}: use 1 or more")
    golden, preparer = read_golden(bundle), Preparer.load(bundle)
    batches = {}
    for modality in golden.modalities:
        # The first ones rather than random ones, so that two runs compare the same inputs.
        rows = [golden.inputs[index] for index in golden.of(modality)[:inputs]]
        prepared = [row.prepare(preparer) for row in rows]
        batches[modality] = assemble(prepared, preparer.contract)
    return batches


def _all_feeds(reference: TracedBackend, batches: Mapping[str, Batch]) -> dict[str, list[Feeds]]:
    """Returns, by part, inputs with the shapes of all runs there will be."""
    vision = [
        piece.vision_feeds()
        for batch in batches.values()
        for group in batch.groups
        for piece in group.pieces()
    ]
    # PyTorch's features stand in for the graph's own: only their shapes matter here.
    encoder = [batch.encoder_feeds(reference.features(batch)) for batch in batches.values()]
    return {"vision": vision, "encoder": encoder}


def compare(
    reference: TracedBackend,
    traced: Mapping[str, ir.Model],
    models: Mapping[str, ir.Model],
    graph: str,
    batches: Mapping[str, Batch],
    on_device: RunPart | None = None,
) -> BisectionResult:
    """Runs both sides on every batch and searches for islands.

    Args:
        reference: PyTorch.
        traced: the parts as they were traced, whose node names tell the modules.
        models: the parts of the graph to compare.
        graph: name of that graph, which decides its limit and gate.
        batches: inputs by modality.
        on_device: runs a part on a GPU; None runs it on ONNX Runtime.
    """
    # Listed once for both sides: the order is the graph's, and every error is named after it.
    outputs = _outputs_in(traced, models, reference)
    run_part = on_device
    if run_part is None:
        judged = {part: as_judged(models[part], graph) for part in PARTS}
        run_part = onnxruntime_runner(judged, outputs)
    results = []
    expected = {}
    for modality, batch in batches.items():
        result, expected[modality] = _compare_batch(
            reference, run_part, outputs, graph, modality, batch
        )
        results.append(result)
    if on_device is not None:
        # Each trial of islands would need plans of its own, which are slow to build.
        return BisectionResult(graph, results, None, on_device=True)
    subject = Subject(graph, models, outputs, batches, expected, reference.width)
    return BisectionResult(graph, results, find_islands(subject, results))


def _outputs_in(
    traced: Mapping[str, ir.Model], models: Mapping[str, ir.Model], reference: TracedBackend
) -> list[ModuleOutput]:
    """Returns the outputs of all modules, with a note on those that smoothing scaled."""
    outputs = []
    for part in PARTS:
        scaled = {
            node.outputs[0].name for node in models[part].graph if SCALED in node.metadata_props
        }
        for output in find_module_outputs(part, traced[part], reference.module(part)):
            outputs.append(replace(output, scaled=output.value in scaled))
    return outputs


def _compare_batch(
    reference: TracedBackend,
    run_part: RunPart,
    outputs: Sequence[ModuleOutput],
    graph: str,
    modality: str,
    batch: Batch,
) -> tuple[ModalityResult, Floats]:
    """Compares one modality; returns the result and PyTorch's embeddings."""
    # `values` is released on return: a large model's values of several modalities would fill the
    # memory. The embeddings are small, and the search for islands needs them.
    embeddings, values = torch_values(reference, batch)
    measured, vectors = graph_errors(run_part, outputs, batch, values, reference.width)
    # The runs report values in the order of the pieces' outputs; a jump needs the graph's order.
    errors = {output.name: measured[output.name] for output in outputs if output.name in measured}
    figure = similarity(vectors, embeddings)
    jumps = error_jumps(errors, graph)
    result = ModalityResult(
        modality,
        len(vectors),
        errors,
        figure,
        passed=meets_gate(graph, figure),
        first=next((name for name, error in errors.items() if error > ERROR_LIMITS[graph]), None),
        jump=max(jumps, key=jumps.__getitem__, default=""),
    )
    return result, embeddings
