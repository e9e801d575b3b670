"""An engine on one stream: an execution context for each profile, and recorded CUDA graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.backends.tensorrt.buffers import Buffers
from lame_runtime.backends.tensorrt.engine import Engine, Shape, Shapes
from lame_runtime.errors import BackendError


class Session:
    """Runs an engine on one stream, with an execution context for each profile that is used.

    One context could switch between profiles, but would forget with every switch its shapes and
    what was prepared for them.

    Args:
        engine: the plan.
        buffers: memory of the stream that work is queued on.
        scratch: address of at least `engine.scratch` bytes on the GPU. All contexts share them,
            since one stream runs them in turn.
        capture: record the work of a profile the second time it runs with the same shapes.
    """

    def __init__(self, engine: Engine, buffers: Buffers, scratch: int, *, capture: bool) -> None:
        self.engine = engine
        self._buffers = buffers
        self._scratch = scratch
        self._capture = capture
        self._contexts: dict[int, _Context] = {}

    def run(
        self,
        profile: int,
        feeds: Mapping[str, npt.NDArray[Any]],
        resident: Mapping[str, tuple[int, Shape]],
    ) -> Shapes:
        """Queues one run; the outputs are then in the buffers of their names.

        Args:
            profile: index of a profile that takes these shapes.
            feeds: inputs on the host.
            resident: inputs that are on the GPU already: address and shape.

        Returns:
            Shapes of the outputs.

        Raises:
            BackendError: TensorRT cannot run the graph; `DeviceError` if memory ran out.
        """
        # Converted here: `upload` copies bytes, whatever they mean.
        arrays = {
            name: np.ascontiguousarray(array, self.engine.inputs[name])
            for name, array in feeds.items()
        }
        addresses = {name: self._buffers.upload(name, array) for name, array in arrays.items()}
        shapes: Shapes = {name: array.shape for name, array in arrays.items()}
        for name, (address, shape) in resident.items():
            addresses[name] = address
            shapes[name] = shape
        context = self._contexts.get(profile) or self._open_context(profile)
        context.set_shapes(shapes)
        # Known only once all inputs have their shapes.
        outputs = context.output_shapes()
        for name, shape in outputs.items():
            size = int(np.prod(shape)) * self.engine.outputs[name].itemsize
            addresses[name] = self._buffers.device(name, size)
        context.set_addresses(addresses)
        context.execute()
        return outputs

    def _open_context(self, profile: int) -> _Context:
        context = _Context(self.engine, self._buffers, self._scratch, capture=self._capture)
        context.take_profile(profile)
        self._contexts[profile] = context
        return context

    def close(self) -> None:
        """Destroys recorded graphs and execution contexts. The stream must be idle."""
        # An exit stack runs all of its callbacks, also if one of them raises.
        with contextlib.ExitStack() as steps:
            while self._contexts:
                steps.callback(self._contexts.popitem()[1].close)


class _Context:
    """An execution context of TensorRT, and the shapes, addresses and recorded graph it has.

    Only changes are set: each one makes TensorRT prepare the next run again, and makes a recorded
    graph invalid.
    """

    def __init__(self, engine: Engine, buffers: Buffers, scratch: int, *, capture: bool) -> None:
        self._engine = engine
        self._cuda = buffers.cuda
        self._stream = buffers.stream
        self._context = engine.create_context(scratch)
        self._shapes: Shapes = {}
        self._addresses: dict[str, int] = {}
        self._runs = 0
        """Runs since shapes or addresses last changed."""
        self._graph: int | None = None
        self._recordable = capture

    def take_profile(self, index: int) -> None:
        """Switches to a profile, once and before anything else."""
        try:
            accepted = self._context.set_optimization_profile_async(index, self._stream)
        # This call alone raises in the bindings; its C++ function returns false like all others.
        except RuntimeError:
            accepted = False
        self._engine.require(accepted, f"take profile {index}")

    def set_shapes(self, shapes: Shapes) -> None:
        """Sets the inputs' shapes that changed."""
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self.forget()
                accepted = self._context.set_input_shape(name, shape)
                self._engine.require(accepted, f"take {name} of shape {shape}")
                self._shapes[name] = shape

    def output_shapes(self) -> Shapes:
        """Returns the outputs' shapes for the inputs' shapes that are set."""
        return {name: tuple(self._context.get_tensor_shape(name)) for name in self._engine.outputs}

    def set_addresses(self, addresses: dict[str, int]) -> None:
        """Sets the addresses of inputs and outputs that changed."""
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                self.forget()
                accepted = self._context.set_tensor_address(name, address)
                self._engine.require(accepted, f"use the memory of {name}")
                self._addresses[name] = address

    def execute(self) -> None:
        """Queues the work, as a recorded graph if there is one."""
        # The first run with new shapes loads kernels and may allocate, which cannot be recorded. So
        # the second one is recorded; inputs of a shape that never comes again cost no recording.
        if self._recordable and self._graph is None and self._runs:
            self._record()
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._engine.require(self._context.execute_async_v3(self._stream), "run the graph")
        self._runs += 1

    def _record(self) -> None:
        """Records the work as a CUDA graph; if that fails, work is queued as usual from now on."""
        # Not recordable until it has succeeded: a plan with a layer that synchronizes would break
        # the capture at every run.
        self._recordable, queued, graph = False, False, None
        self._cuda.begin_capture(self._stream)
        try:
            queued = self._context.execute_async_v3(self._stream)
        finally:
            # The capture has to be ended in any case, or the stream stays in capture mode. Ending
            # one that was broken off is an error, too.
            with contextlib.suppress(BackendError):
                graph = self._cuda.end_capture(self._stream)
        # Without `queued` the graph holds a part of the work: replayed, it would look like success.
        if graph is not None and queued:
            self._graph, self._recordable = graph, True
        elif graph is not None:
            self._cuda.destroy_graph(graph)

    def forget(self) -> None:
        """Drops the recorded graph, which is valid for the shapes and addresses it holds only."""
        self._runs = 0
        if self._graph is not None:
            self._cuda.synchronize(self._stream)  # the graph may still be queued
            graph, self._graph = self._graph, None
            self._cuda.destroy_graph(graph)

    def close(self) -> None:
        """Drops TensorRT's context, even if a traceback still references this object."""
        try:
            self.forget()
        finally:
            self._context = None
