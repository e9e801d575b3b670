"""Runs a graph with the values of its modules as outputs, and measures their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.contract.batch import Batch, Floats

from lame_export.bisect.module_outputs import ModuleOutput, TorchValues
from lame_export.parity.judged import EMULATED
from lame_export.quantization.static_int8 import bypass
from lame_export.rewrites.emulate import emulate
from lame_export.streaming.attention_blocks import Feeds, needs_blocks
from lame_export.streaming.pieces import copy_of, cut
from lame_export.streaming.running import StoredPieces

ReportValues = Callable[[Feeds], None]
"""Receives values of a graph by name, as soon as they are computed."""
RunPart = Callable[[str, Feeds, ReportValues], Floats]
"""Runs "vision" or "encoder" on some inputs, reports its values, and returns the part's output."""

_ROUNDED = ".round32"
"""Ending of the value that the emulation puts in place of one that a GPU holds in half."""


def as_judged(model: ir.Model, graph: str, exact_layers: Sequence[str] = ()) -> ir.Model:
    """Returns a copy of a graph as ONNX Runtime's CPU provider must run it to be judged.

    FP16 and INT8 graphs are emulated, because that provider computes half values in FP32.

    Args:
        model: one part of the graph.
        graph: name of the graph.
        exact_layers: paths of layers to compute at higher precision: without rounding to half in an
            FP16 graph, with activations that are not quantized in an INT8 graph.
    """
    copy = copy_of(model)
    if graph == "int8":
        bypass(copy, exact_layers)
    # Islands of an INT8 graph still compute in half, so only an FP16 graph leaves out the rounding.
    if graph in EMULATED:
        emulate(copy, exact=exact_layers if graph == "fp16" else ())
    return copy


def onnxruntime_runner(models: Mapping[str, ir.Model], outputs: Sequence[ModuleOutput]) -> RunPart:
    """Returns a function that runs parts on ONNX Runtime, on the CPU.

    The graph runs piece by piece, so that the values of a large model need not all be in memory.
    """
    names = {part: {output.value for output in outputs if output.part == part} for part in PARTS}

    def run_part(part: str, feeds: Feeds, report: ReportValues) -> Floats:
        model = models[part]
        output = model.graph.outputs[0].name or ""
        # Run as written: an optimizer that fuses nodes changes what is being compared.
        pieces = cut(model, attention_apart=needs_blocks(feeds))
        for piece in pieces:
            _add_outputs(piece.model.graph, names[part])
        with StoredPieces(pieces, optimize=False) as stored:
            results = stored.run([feeds], [output], lambda _, values: report(values))
        return results[0][output]

    return run_part


def _add_outputs(graph: ir.Graph, names: set[str]) -> None:
    """Makes values outputs of a piece of a graph, each as the layers after it read it."""
    values = {value.name: value for node in graph for value in node.outputs}
    existing = {output.name for output in graph.outputs}
    for name in names & set(values):
        value = values.get(f"{name}{_ROUNDED}", values[name])
        if value.name not in existing:
            graph.outputs.append(value)


def graph_errors(
    run_part: RunPart,
    outputs: Sequence[ModuleOutput],
    batch: Batch,
    expected: TorchValues,
    width: int,
) -> tuple[dict[str, float], Floats]:
    """Runs a batch and compares what its modules compute with PyTorch.

    Args:
        run_part: runs the graph's parts.
        outputs: which values to compare; none if only the embeddings are needed.
        batch: the inputs.
        expected: what PyTorch's modules returned for the same batch.
        width: length of a row of picture features.

    Returns:
        The largest relative error of every value over the runs, by module, and the embeddings:
        float32 (B, P).
    """
    errors: dict[str, float] = {}
    # Row 0 is the row of zeros that tokens outside pictures point to.
    features = [np.zeros((1, width), np.float32)]
    runs = [piece.vision_feeds() for group in batch.groups for piece in group.pieces()]
    vision = _comparable(outputs, "vision", expected, len(runs))
    for number, feeds in enumerate(runs):
        pairs = {value: (output, expected[output.name][number]) for value, output in vision.items()}
        output = run_part("vision", feeds, partial(_measure, pairs=pairs, errors=errors))
        features.append(output.reshape(-1, width))
    encoder = _comparable(outputs, "encoder", expected, 1)
    pairs = {value: (output, expected[output.name][0]) for value, output in encoder.items()}
    feeds = batch.encoder_feeds(np.concatenate(features))
    embeddings = run_part("encoder", feeds, partial(_measure, pairs=pairs, errors=errors))
    return errors, embeddings


def _comparable(
    outputs: Sequence[ModuleOutput], part: str, expected: TorchValues, runs: int
) -> dict[str, ModuleOutput]:
    """Returns, by value name, the outputs of modules that ran exactly once per run.

    A module that runs twice, such as a rotary embedding for queries and keys, has two outputs but
    one name: which of them a value of the graph is cannot be told.
    """
    return {
        output.value: output
        for output in outputs
        if output.part == part and len(expected.get(output.name, ())) == runs
    }


def _measure(
    values: Feeds,
    *,
    pairs: Mapping[str, tuple[ModuleOutput, Floats]],
    errors: dict[str, float],
) -> None:
    """Adds the relative errors of a run's values to `errors`, keeping the larger one per module."""
    for name, array in values.items():
        value_name = name.removesuffix(_ROUNDED)
        if value_name not in pairs:
            # An output of the piece that belongs to no module.
            continue
        output, torch_value = pairs[value_name]
        if torch_value.shape != array.shape:
            # A module whose last value in the graph is not what it returns.
            continue
        error = _relative_error(array, torch_value, scaled=output.scaled)
        errors[output.name] = max(errors.get(output.name, 0.0), error)


def _relative_error(actual: npt.ArrayLike, expected: Floats, *, scaled: bool) -> float:
    """Returns the norm of the difference divided by the norm of the expected value."""
    exact = expected.astype(np.float64)
    value = np.asarray(actual, dtype=np.float64)
    if scaled:
        value = _unscaled(value, exact)
    # The floor keeps a value that is all zeros from dividing by zero.
    error = float(np.linalg.norm(value - exact)) / max(float(np.linalg.norm(exact)), 1e-12)
    return error if np.isfinite(error) else np.inf


def _unscaled(
    value: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Multiplies each channel (last axis) by the factor that brings it closest to the expected one.

    That undoes smoothing, whose own factors the graph does not keep.
    """
    axes = tuple(range(value.ndim - 1))
    # Closed form of the least-squares fit; the floor is for channels that are all zeros.
    factors = (value * expected).sum(axis=axes) / np.maximum((value * value).sum(axis=axes), 1e-30)
    return value * factors
