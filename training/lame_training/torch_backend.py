"""PyTorch behind the runtime's seam: the same batching, with the trained model itself instead of a graph.

This is the reference every exported graph is held against, and what evaluates a checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lame_runtime.backends.base import Backend, Batch, Floats, PictureGroup
from lame_runtime.encoder import Encoder

from lame_training.checkpoint import load_model
from lame_training.collate import to_model_inputs
from lame_training.model import LaMEModel
from lame_training.upcast import compute_in_fp32


class TorchBackend(Backend):
    """Runs a `LaMEModel` as transformers computes it, on the device it lies on.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: LaMEModel) -> None:
        self.name = f"torch {torch.__version__}"
        self.model = model
        self.width = model.feature_width
        self.device = model.embed_1D.device

    @torch.inference_mode()
    def vision(self, group: PictureGroup) -> Floats:
        """See `Backend.vision`."""
        patches = torch.from_numpy(group.pixel_patches).to(self.device)
        grids = torch.tensor([(1, *group.grid)] * len(patches), device=self.device)
        features = self.model.visual(patches.flatten(0, 1), grids)
        return features.view(len(patches), -1, self.width).float().cpu().numpy()

    @torch.inference_mode()
    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """See `Backend.encoder`."""
        inputs = to_model_inputs(batch, self.device)
        hidden_BLD = self.model.hidden_states(inputs, torch.from_numpy(np.ascontiguousarray(features_FD)).to(self.device))
        return self.model.embedding(*self.model.take_latents(hidden_BLD, inputs.embed_index_B)).cpu().numpy()


def load_encoder_and_model(checkpoint: Path) -> tuple[Encoder, LaMEModel]:
    """An `Encoder` over a checkpoint that computes in FP32, and the model inside it without its decoder.

    The weights are mapped from the disk in the type they are stored in; raises `BundleError`.
    """
    model, preparer = load_model(checkpoint, dtype=None, decoder=False)
    compute_in_fp32(model)
    model.compute_dtype = torch.float32
    return Encoder(preparer, TorchBackend(model), "pytorch"), model


def load_encoder(checkpoint: Path) -> Encoder:
    """An `Encoder` over a checkpoint; raises `BundleError` where it cannot be read."""
    return load_encoder_and_model(checkpoint)[0]
