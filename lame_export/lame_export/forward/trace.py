"""Traces the two forwards to FP32 graphs with named dynamic dimensions.

The tracer sees weights of the right shape without their memory. In the graph they are put back as
they lie in the checkpoint, mapped from the disk, and turned to FP32 one by one when a file is
written: whatever its size, no graph is ever held in memory as a whole.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
import torch
from lame_runtime.contract import Contract
from lame_runtime.contract.tower import tower_tables
from lame_runtime.errors import ExportError
from lame_training.model.lame import LaMEModel
from torch import Tensor, nn
from torch.export import Dim

from lame_export.forward import SinglePassEncoder, Vision
from lame_export.forward.encoder import token_table
from lame_export.forward.experts import WideAffine
from lame_export.forward.layers import without_memory
from lame_export.rewrites.scopes import keep_scopes

OPSET = 20
"""The newest opset that TensorRT 10.3 reads; ONNX Runtime reads it from 1.17 on."""
SMALL = 4096
"""Weights of up to this many values are traced as they are: the tracer may fold them."""

Weight = Callable[[], Tensor]
"""Returns a weight as it is stored, in any float type, when it is needed."""


@dataclass(frozen=True)
class Request:
    """A forward to trace, with its example inputs and the names that its graph will have."""

    module: nn.Module
    inputs: dict[str, Tensor]
    """Example inputs, by name."""
    dynamic: dict[str, dict[int, Dim]]
    """Dynamic dimensions of each input, by axis; their names become the graph's own."""
    output: str
    """Name of the output."""
    computed: Mapping[str, Weight] = field(default_factory=dict)
    """Weights that are no parameters of the model, but computed from them."""


def trace(model: LaMEModel, contract: Contract) -> dict[str, ir.Model]:
    """Traces a model.

    Args:
        model: the model; its backbone's weights may be mapped from the disk.
        contract: for the sizes of patches and for the tables that the vision tower takes.

    Returns:
        The graphs "vision" and "encoder" in FP32, with the names of `keep_scopes`. Their weights
        are `StoredTensor`s, which keep the model's memory alive.

    Raises:
        ExportError: the tracer dropped or renamed a weight.
    """
    return {
        "vision": _trace(_vision_request(model, contract)),
        "encoder": _trace(_encoder_request(model)),
    }


def _vision_request(model: LaMEModel, contract: Contract) -> Request:
    # upper bounds of dynamic dimensions, here and below, are far above the limits of any contract
    pictures, patches = Dim("pictures", max=4096), Dim("patches", max=65536)
    windows = Dim("windows", max=16384)
    # torch.export takes a dimension of size 1 for a constant, so every dynamic one is at least 2 in
    # the examples: two pictures, wide enough for two of Qwen2.5-VL's windows of 8 × 8 patches
    merge = contract.images.merge_size
    grid = (2 * merge, 6 * merge)
    tables = {
        # copies, because the contract's tables are read-only
        name: torch.from_numpy(table.copy())
        for name, table in tower_tables(grid, contract).items()
    }
    images = contract.images
    # frames in a temporal patch; a picture has one
    depth = Dim("depth", max=max(2, images.temporal_patch_size))
    frames = torch.zeros(2, 2, grid[0] * grid[1], 3 * images.patch_size**2, dtype=torch.uint8)
    dynamic = {"frames": {0: pictures, 1: depth, 2: patches}, "strip_index": {0: patches}}
    for name, table in tables.items():
        # patches are the last axis of all other tables but two, which count windows first
        if name in ("window_index", "window_mask"):
            dynamic[name] = {0: windows}
        elif name not in dynamic:
            dynamic[name] = {table.ndim - 1: patches}
    return Request(
        Vision(model.backbone.visual, images),
        {"frames": frames, **tables},
        dynamic,
        "features",
    )


def _encoder_request(model: LaMEModel) -> Request:
    batch, length = Dim("batch", max=4096), Dim("length", max=131072)
    n_features = Dim("n_features", max=1 << 20)
    table_V = model.backbone.get_input_embeddings().weight.shape[0] + model.n_reason + 1
    width_D = model.reason_KD.shape[1]
    inputs = {
        # two tensors of the same zeros: the tracer makes one input of those that share a tensor
        "input_ids": torch.zeros(2, 9, dtype=torch.int64),
        "features": torch.zeros(5, model.feature_width),
        "feature_index": torch.zeros(2, 9, dtype=torch.int64),
        "position_ids": torch.zeros(3, 2, 9, dtype=torch.int64),
        "embed_index": torch.tensor([8, 8]),
    }
    dynamic = {
        "input_ids": {0: batch, 1: length},
        "features": {0: n_features},
        "feature_index": {0: batch, 1: length},
        "position_ids": {1: batch, 2: length},
        "embed_index": {0: batch},
    }
    encoder = SinglePassEncoder(model, without_memory((table_V, width_D)))
    computed: dict[str, Weight] = {"table_VD": lambda: token_table(model)}
    for path, module in encoder.named_modules():
        if isinstance(module, WideAffine):
            computed[f"{path}.weight_io"] = module.take_weight()
    return Request(encoder, inputs, dynamic, "sentence_embedding", computed)


def _trace(request: Request) -> ir.Model:
    """Traces one forward and puts its weights back; its module is of no use afterwards."""
    weights = _take_weights(request)
    with _quiet():
        program = torch.onnx.export(
            request.module.eval(),
            # by name: the graph's inputs have the names of the forward's arguments
            kwargs=request.inputs,
            dynamic_shapes=request.dynamic,
            output_names=[request.output],
            opset_version=OPSET,
            dynamo=True,
        )
    assert program is not None

    keep_scopes(program.model)
    _cast_bytes_first(program.model.graph)
    _put_back(program.model, weights)
    return program.model


def _take_weights(request: Request) -> dict[str, Weight]:
    """Replaces every large parameter by one without memory; returns the weights by name."""
    weights: dict[str, Weight] = {}
    for name, parameter in request.module.named_parameters():
        stored = parameter.detach()
        if stored.numel() > SMALL or name in request.computed:
            weights[name] = request.computed.get(name, _returning(stored))
            parameter.data = without_memory(stored.shape)
        else:
            # in the graph's type, to which large weights are converted as they are read
            parameter.data = stored.float()
    return weights


def _returning(weight: Tensor) -> Weight:
    return lambda: weight


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the tracer, whose progress and warnings are of no use to a user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _cast_bytes_first(graph: ir.Graph) -> None:
    """Makes a Cast the only reader of every uint8 input, because TensorRT accepts no other.

    before   frames ─┬─ Shape ─ …         after   frames ─ Cast ─┬─ Shape ─ …
                     └─ Cast ─ …                                 └─ …
    """
    for value in graph.inputs:
        if value.dtype != ir.DataType.UINT8:
            continue
        (cast,) = (node for node in value.consumers() if node.op_type == "Cast")
        graph.remove(cast)
        graph.insert_before(graph[0], cast)
        for reader, index in tuple(value.uses()):
            if reader is not cast:
                reader.replace_input_with(index, cast.outputs[0])


def _put_back(model: ir.Model, weights: Mapping[str, Weight]) -> None:
    """Gives every large initializer its weight; raises `ExportError` if the tracer lost one."""
    initializers = model.graph.initializers
    for name, weight in weights.items():
        if name not in initializers:
            raise ExportError(
                f"the tracer lost the weight {name}: torch.onnx of PyTorch {torch.__version__} is "
                "not supported; use another version of PyTorch"
            )
        shape = initializers[name].shape
        assert shape is not None
        initializers[name].const_value = StoredTensor(weight, shape, name)


class StoredTensor(ir.LazyTensor):
    """A weight of the checkpoint as an initializer of the FP32 graph, converted when it is read.

    Args:
        weight: returns it as it is stored, in any float type.
        shape: its shape.
        name: name of the initializer.
    """

    def __init__(self, weight: Weight, shape: ir.Shape, name: str) -> None:
        super().__init__(
            lambda: ir.tensor(weight().float().contiguous().numpy()),
            dtype=ir.DataType.FLOAT,
            shape=shape,
            name=name,
        )
        self.as_half = lambda: weight().half().contiguous().numpy()
        """Returns it in half without FP32 in between, so without a copy if it is stored in half."""
