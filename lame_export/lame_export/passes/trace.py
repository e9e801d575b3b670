"""Trace: the two forwards → ONNX graphs with named dynamic dimensions. The one pass that imports torch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx_ir as ir
import torch
from lame_training.model import LaMEModel
from torch import nn
from torch.export import Dim

from lame_export.forward import SinglePassEncoder, Vision
from lame_export.passes.scopes import keep_scopes

OPSET = 20
"""TensorRT 10.3 and every later version, ONNX Runtime 1.17 and later."""


def trace(model: LaMEModel, patch_dim: int, folder: Path) -> None:
    """Writes `vision.fp32.onnx` and `encoder.fp32.onnx` into `folder`, weights beside each in one `.data` file."""
    width = model.backbone.config.text_config.hidden_size
    pictures, patches = Dim("pictures", max=4096), Dim("patches", max=65536)
    merge = model.backbone.config.vision_config.spatial_merge_size**2
    _export(
        Vision(model.backbone.visual),
        {"pixel_patches": torch.zeros(2, 6 * merge, patch_dim), "patch_positions": torch.zeros(2, 6 * merge, dtype=torch.int64)},
        {"pixel_patches": {0: pictures, 1: patches}, "patch_positions": {1: patches}},
        "features",
        folder / "vision.fp32.onnx",
    )
    batch, length, rows = Dim("batch", max=4096), Dim("length", max=131072), Dim("n_features", max=1 << 20)
    _export(
        SinglePassEncoder(model),
        {
            "input_ids": torch.zeros(2, 9, dtype=torch.int64),  # inputs that share a tensor would become one
            "features": torch.zeros(5, width),
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
        folder / "encoder.fp32.onnx",
    )


def _export(module: nn.Module, inputs: dict[str, torch.Tensor], shapes: dict[str, dict[int, Dim]], output: str, path: Path) -> None:
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
    ir.save(program.model, path, external_data=f"{path.name}.data")
