"""Both sides of a bisection: what PyTorch's modules give, and what the graph gives under the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from lame_runtime.backends.base import Batch, Floats
from lame_runtime.bundle import PARTS
from torch import nn

from lame_export.parity import TracedBackend
from lame_export.passes.emulate import emulate
from lame_export.passes.int8 import bypass
from lame_export.steps import EMULATED
from lame_export.streamed import Feeds, Piece, copy_of, cut, run


@dataclass(frozen=True)
class Point:
    """A value that both sides compute."""

    part: str
    path: str
    """Of the module that computes it, as in "blocks.3.down"."""
    module: str
    value: str
    """Its name in the graph."""
    scaled: bool = False
    """Whether the graph holds it divided by a factor per channel (`passes.smooth`)."""

    @property
    def name(self) -> str:
        """As in "encoder.blocks.3.down"."""
        return f"{self.part}.{self.path}"


def points_of(part: str, model: ir.Model, module: nn.Module) -> list[Point]:
    """What each module computes: the last value of its own nodes and those of the modules in it, casts aside."""
    last: dict[str, tuple[int, str]] = {}
    for index, node in enumerate(model.graph):
        names = (node.name or "").split("/")[0].split(".")
        if node.op_type != "Cast" and node.outputs[0].name:
            last |= {".".join(names[:depth]): (index, node.outputs[0].name) for depth in range(1, len(names) + 1)}
    kinds = {path: type(each).__name__ for path, each in module.named_modules() if path}
    ordered = sorted((index, path, value) for path, (index, value) in last.items() if path in kinds)
    return [Point(part, path, kinds[path], value) for _, path, value in ordered]


Values = dict[str, list[Floats]]
"""By part and module path, what the module gave, run after run."""


@contextmanager
def _watched(reference: TracedBackend, into: Values) -> Iterator[None]:
    """Keeps what every module gives."""
    hooks = []
    for part in PARTS:
        for path, module in reference.module(part).named_modules():
            if path:

                def keep(module: nn.Module, inputs: Any, output: Any, name: str = f"{part}.{path}") -> None:
                    if isinstance(output, torch.Tensor):
                        into.setdefault(name, []).append(output.float().numpy().copy())

                hooks.append(module.register_forward_hook(keep))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def torch_values(reference: TracedBackend, batch: Batch) -> tuple[Floats, Values]:
    """PyTorch's embeddings and all it computed on the way."""
    values: Values = {}
    with _watched(reference, values):
        return reference.run(batch), values


def as_run(model: ir.Model, graph: str, careful: Sequence[str]) -> ir.Model:
    """The graph as the CPU must run it to be judged, some layers computed more carefully."""
    made = copy_of(model)
    if graph == "int8":
        bypass(made, careful)
    if graph in EMULATED:
        emulate(made, exact=careful if graph == "fp16" else ())
    return made


RunPart = Callable[[str, Feeds, Callable[[Feeds], None]], Floats]
"""Runs a part: its name, its inputs, who is told the values; returns the part's output."""


def graph_errors(run_part: RunPart, points: list[Point], batch: Batch, values: Values, width: int) -> tuple[dict[str, float], Floats]:
    """Relative error of every point, and the embeddings."""
    errors: dict[str, float] = {}
    parts = [np.zeros((1, width), np.float32)]
    runs = [piece.vision_feeds() for group in batch.groups for piece in group.pieces()]
    for number, feeds in enumerate(runs):
        wanted = _once(points, "vision", values, len(runs))
        output = run_part("vision", feeds, partial(_measure, wanted=wanted, values=values, number=number, errors=errors))
        parts.append(output.reshape(-1, width))
    feeds = batch.encoder_feeds(np.concatenate(parts))
    wanted = _once(points, "encoder", values, 1)
    return errors, run_part("encoder", feeds, partial(_measure, wanted=wanted, values=values, number=0, errors=errors))


def _once(points: list[Point], part: str, values: Values, runs: int) -> dict[str, Point]:
    """The points of modules that ran once per run: of one that runs twice, such as a rotary, one value is not the other."""
    return {point.value: point for point in points if point.part == part and len(values.get(point.name, ())) == runs}


def on_cpu(models: dict[str, ir.Model], points: list[Point]) -> RunPart:
    """ONNX Runtime, piece by piece, so that values of large models need not all be held."""
    names = {part: {point.value for point in points if point.part == part} for part in PARTS}

    def run_part(part: str, feeds: Feeds, report: Callable[[Feeds], None]) -> Floats:
        def watch(piece: Piece, _: int) -> Callable[[Feeds], None]:
            graph = piece.model.graph
            made = {value.name: value for node in graph for value in node.outputs}
            for name in names[part] & set(made):
                value = made.get(f"{name}.round32", made[name])
                if value.name not in [output.name for output in graph.outputs]:
                    graph.outputs.append(value)
            return report

        output = models[part].graph.outputs[0].name or ""
        return run(cut(models[part]), [feeds], [output], watch=watch, optimise=False)[0][output]

    return run_part


def _measure(found: Feeds, *, wanted: dict[str, Point], values: Values, number: int, errors: dict[str, float]) -> None:
    """Adds the relative errors of what a run gave; they are the largest over the runs."""
    for name, array in found.items():
        point = wanted.get(name.removesuffix(".round32"))
        if point is None or values[point.name][number].shape != array.shape:
            continue  # an output that is no point, or a module whose last value is not what it returns
        expected = values[point.name][number].astype(np.float64)
        found_value = array.astype(np.float64)
        if point.scaled:
            found_value = _unscaled(found_value, expected)
        error = float(np.linalg.norm(found_value - expected)) / max(float(np.linalg.norm(expected)), 1e-12)
        errors[point.name] = max(errors.get(point.name, 0.0), error if np.isfinite(error) else np.inf)


def _unscaled(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A value times the factor per channel that brings it closest to the expected one: smoothing's own factors are not kept."""
    axes = tuple(range(found.ndim - 1))
    return found * ((found * expected).sum(axis=axes) / np.maximum((found * found).sum(axis=axes), 1e-30))
