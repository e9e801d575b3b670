"""Runs the traced forward in PyTorch, behind the runtime's backend interface."""

from __future__ import annotations

from typing import Any

import torch
from lame_runtime.backends.base import Backend
from lame_runtime.contract.batch import Batch, Floats, PictureGroup
from lame_runtime.contract.rules import Contract
from lame_training.model.lame import LaMEModel
from lame_training.model.upcast import compute_in_fp32

from lame_export.forward import SinglePassEncoder, Vision


class TracedBackend(Backend):
    """Computes in PyTorch what the exported FP32 graphs should compute."""

    def __init__(self, model: LaMEModel, contract: Contract) -> None:
        self.name = "traced forward"
        self.width = model.feature_width
        self._vision = Vision(model.backbone.visual, contract.images).eval()
        self._encoder = SinglePassEncoder(model).eval()
        # weights may be stored in half precision, but the reference is computed in FP32
        compute_in_fp32(self._vision)
        compute_in_fp32(self._encoder)

    def module(self, part: str) -> torch.nn.Module:
        """Returns the module that computes "vision" or "encoder"."""
        return self._vision if part == "vision" else self._encoder

    @torch.inference_mode()
    def vision(self, group: PictureGroup) -> Floats:
        """Runs the vision tower; see `Backend.vision`."""
        return self._vision(**_tensors(group.vision_feeds())).numpy()

    @torch.inference_mode()
    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """Runs the encoder; see `Backend.encoder`."""
        return self._encoder(**_tensors(batch.encoder_feeds(features_FD))).numpy()


def _tensors(feeds: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Returns the arrays as tensors, which share memory unless an array is read-only."""
    # PyTorch has no read-only tensors and warns about such arrays
    return {
        name: torch.from_numpy(value if value.flags.writeable else value.copy())
        for name, value in feeds.items()
    }
