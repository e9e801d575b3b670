"""Matches PyTorch's modules with the values of a graph, and records what the modules return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.contract.batch import Batch, Floats
from torch import nn

from lame_export.parity.traced_backend import TracedBackend


@dataclass(frozen=True)
class ModuleOutput:
    """A value that both sides compute: the output of a PyTorch module, and a value in the graph."""

    part: str
    """Part of the model: "vision" or "encoder"."""
    path: str
    """Path of the module within its part, as in "blocks.3.down"."""
    module: str
    """Class name of the module."""
    value: str
    """Name of the value in the graph."""
    scaled: bool = False
    """Whether smoothing divided the graph's value by a factor per channel (`rewrites.scopes`)."""

    @property
    def name(self) -> str:
        """The module's path with its part, as in "encoder.blocks.3.down"."""
        return f"{self.part}.{self.path}"


def find_module_outputs(part: str, model: ir.Model, module: nn.Module) -> list[ModuleOutput]:
    """Finds the value that each module computes, in the order of the graph.

    It is the last value that a node of the module, or of a module inside it, computes.

    Args:
        part: "vision" or "encoder".
        model: the part's graph as it was traced, whose nodes are named after their modules.
        module: the part's forward in PyTorch.
    """
    last_values: dict[str, tuple[int, str]] = {}
    for index, node in enumerate(model.graph):
        steps = (node.name or "").split("/")[0].split(".")
        # A cast after a module's last node only changes the type for whatever reads it.
        if node.op_type == "Cast" or not node.outputs[0].name:
            continue
        for depth in range(1, len(steps) + 1):
            last_values[".".join(steps[:depth])] = (index, node.outputs[0].name)
    # Sorted by the last node, so that a block comes after the layers in it.
    classes = {path: type(child).__name__ for path, child in module.named_modules() if path}
    ordered = sorted(
        (index, path, value) for path, (index, value) in last_values.items() if path in classes
    )
    return [ModuleOutput(part, path, classes[path], value) for _, path, value in ordered]


TorchValues = dict[str, list[Floats]]
"""By module name, what PyTorch's module returned, run after run."""


def torch_values(reference: TracedBackend, batch: Batch) -> tuple[Floats, TorchValues]:
    """Runs a batch in PyTorch; returns the embeddings and all that its modules returned."""
    values: TorchValues = {}
    with _recording(reference, values):
        return reference.run(batch), values


@contextmanager
def _recording(reference: TracedBackend, into: TorchValues) -> Iterator[None]:
    """Records what every module returns while the context is open."""
    hooks = []
    for part in PARTS:
        for path, module in reference.module(part).named_modules():
            # The part itself has an empty path; its output is compared as embeddings.
            if path:
                hooks.append(module.register_forward_hook(_recorder(f"{part}.{path}", into)))
    try:
        yield
    finally:
        # The same model runs for the next modality, with hooks of its own.
        for hook in hooks:
            hook.remove()


def _recorder(name: str, into: TorchValues) -> Any:
    """Returns a forward hook that records a module's output under a name."""

    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # A module that returns a tuple, such as cosines and sines, has no single value to compare.
        if isinstance(output, torch.Tensor):
            # Copied: NumPy shares the tensor's memory, which a later module may change in place.
            into.setdefault(name, []).append(output.float().numpy().copy())

    return record
