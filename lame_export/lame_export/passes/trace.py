"""Trace: the two forwards → FP32 graphs with named dynamic dimensions. The one pass that imports torch.

The tracer sees weights of the right shape without their memory. In the graph they are put back as they lie in the
checkpoint, mapped from the disk, and turned to FP32 one by one when a file is written: no graph is ever held in
memory, whatever its size.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch
from lame_runtime.contract import Contract
from lame_runtime.contract.tower import tower_tables
from lame_training.model import LaMEModel
from torch import Tensor, nn
from torch.export import Dim

from lame_export.errors import ExportError
from lame_export.forward import SinglePassEncoder, Vision
from lame_export.forward.encoder import token_table
from lame_export.passes.scopes import keep_scopes

OPSET = 20
"""TensorRT 10.3 and every later version, ONNX Runtime 1.17 and later."""
SMALL = 4096
"""Weights up to this size are traced as they are: the tracer may fold them into constants."""


def trace(model: LaMEModel, contract: Contract) -> dict[str, ir.Model]:
    """The graphs "vision" and "encoder" in FP32."""
    pictures, patches, windows = Dim("pictures", max=4096), Dim("patches", max=65536), Dim("windows", max=16384)
    merge = contract.images.merge_size
    tables = {name: torch.from_numpy(table.copy()) for name, table in tower_tables((2 * merge, 6 * merge), contract).items()}
    inputs = {"pixel_patches": torch.zeros(2, 12 * merge**2, contract.images.patch_dim), **tables}
    shapes = {"pixel_patches": {0: pictures, 1: patches}}
    shapes |= {name: {table.ndim - 1: patches} for name, table in tables.items()}
    shapes |= {name: {0: windows} for name in ("window_index", "window_mask") if name in tables}
    vision = _export(Vision(model.backbone.visual), inputs, shapes, "features", {})

    batch, length, rows = Dim("batch", max=4096), Dim("length", max=131072), Dim("n_features", max=1 << 20)
    rows_V = model.backbone.get_input_embeddings().weight.shape[0] + model.n_reason + 1
    width_D = model.reason_KD.shape[1]
    encoder = _export(
        SinglePassEncoder(model, _seen_as((rows_V, width_D))),
        {
            "input_ids": torch.zeros(2, 9, dtype=torch.int64),  # inputs that share a tensor would become one
            "features": torch.zeros(5, model.feature_width),
            "feature_index": torch.zeros(2, 9, dtype=torch.int64),
            "position_ids": torch.zeros(3, 2, 9, dtype=torch.int64),
            "embed_index": torch.tensor([8, 8]),
        },
        {
            "input_ids": {0: batch, 1: length},
            "features": {0: rows},
            "feature_index": {0: batch, 1: length},
            "position_ids": {1: batch, 2: length},
            "embed_index": {0: batch},
        },
        "sentence_embedding",
        {"table_VD": lambda: token_table(model)},
    )
    return {"vision": vision, "encoder": encoder}


def _seen_as(shape: Sequence[int]) -> Tensor:
    """A tensor of this shape without its memory: one zero, seen everywhere."""
    return torch.zeros(1).expand(tuple(shape))


def _export(
    module: nn.Module,
    inputs: dict[str, Tensor],
    shapes: dict[str, dict[int, Dim]],
    output: str,
    made: dict[str, Callable[[], Tensor]],
) -> ir.Model:
    """Traces one forward.

    Args:
        module: the forward.
        inputs: examples.
        shapes: their dynamic dimensions.
        output: name of the output.
        made: weights that are made when they are needed, by name.
    """
    weights: dict[str, Callable[[], Tensor]] = {}
    for name, parameter in module.named_parameters():
        stored = parameter.detach()
        if stored.numel() > SMALL:
            weights[name] = made.get(name, lambda stored=stored: stored)  # type: ignore[misc]
            parameter.data = _seen_as(stored.shape)
        else:
            parameter.data = stored.float()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            kwargs=inputs,
            dynamic_shapes=shapes,
            output_names=[output],
            opset_version=OPSET,
            dynamo=True,
        )
    assert program is not None
    keep_scopes(program.model)
    _put_back(program.model, weights)
    return program.model


def _put_back(model: ir.Model, weights: dict[str, Callable[[], Tensor]]) -> None:
    """Gives every large initializer its weight; raises `ExportError` where the tracer lost one."""
    initializers = model.graph.initializers
    for name, weight in weights.items():
        if name not in initializers:
            raise ExportError(f"the tracer lost the weight {name}; this version of torch.onnx is not supported")
        shape = initializers[name].shape
        assert shape is not None
        initializers[name].const_value = StoredTensor(weight, shape, name)


class StoredTensor(ir.LazyTensor):
    """A weight of the checkpoint as the FP32 graph's initializer, converted only when it is read.

    Args:
        weight: gives it as it is stored, in any float type.
        shape: of the weight.
        name: of the initializer.
    """

    def __init__(self, weight: Callable[[], Tensor], shape: ir.Shape, name: str) -> None:
        super().__init__(lambda: ir.tensor(weight().float().contiguous().numpy()), dtype=ir.DataType.FLOAT, shape=shape, name=name)
        self.as_half = lambda: weight().half().contiguous().numpy()
        """The same in half, without FP32 in between: no copy where that is what is stored."""
