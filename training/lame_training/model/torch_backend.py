"""PyTorch as a backend of the runtime: the trained model itself in place of exported graphs.

Preparing and batching are the runtime's own. Every exported graph is compared with this backend,
and checkpoints are evaluated with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lame_runtime.backends.base import Backend
from lame_runtime.contract.batch import Batch, Floats, PictureGroup
from lame_runtime.encoder import Encoder

from lame_training.data.step_batch import to_model_inputs
from lame_training.model.checkpoint import load_model
from lame_training.model.lame import LaMEModel
from lame_training.model.upcast import compute_in_fp32


class TorchBackend(Backend):
    """Runs a `LaMEModel` with transformers' own forward pass, on the device that holds the model.

    Args:
        model: the model, in evaluation mode.
    """

    def __init__(self, model: LaMEModel) -> None:
        self.name = f"torch {torch.__version__}"
        self.model = model
        self.width = model.feature_width
        self.device = model.embed_1D.device

    @torch.inference_mode()
    def vision(self, group: PictureGroup) -> Floats:
        """Returns the vision features of a group; see `Backend.vision`."""
        patches = torch.from_numpy(group.pixel_patches()).to(self.device)
        # temporal patches of a video count as pictures
        grids = torch.tensor([(1, *group.grid)] * group.pictures, device=self.device)
        features = self.model.visual(patches.flatten(0, 1), grids)
        # float32 like the arrays of every backend, whatever type the model computes in
        return features.view(len(patches), -1, self.width).float().cpu().numpy()

    @torch.inference_mode()
    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """Returns the embeddings of a batch; see `Backend.encoder`."""
        inputs = to_model_inputs(batch, self.device)
        features = torch.from_numpy(np.ascontiguousarray(features_FD)).to(self.device)
        hidden_BLD = self.model.hidden_states(inputs, features)
        z_BKD, h_BD = self.model.take_latents(hidden_BLD, inputs.embed_index_B)
        return self.model.embedding(z_BKD, h_BD).cpu().numpy()


def load_encoder_and_model(checkpoint: Path) -> tuple[Encoder, LaMEModel]:
    """Loads a checkpoint as an `Encoder` that computes in FP32, and the model inside it.

    The model has no latent decoder. Its weights are mapped from the disk in their stored type and
    widened block by block; see `upcast`.

    Raises:
        BundleError: the folder is no checkpoint.
    """
    model, preparer = load_model(checkpoint, dtype=None, decoder=False)
    compute_in_fp32(model)
    # the hooks widen weights alone; the activations that meet them must be FP32 as well
    model.compute_dtype = torch.float32
    return Encoder(preparer, TorchBackend(model), "pytorch"), model


def load_encoder(checkpoint: Path) -> Encoder:
    """Loads a checkpoint as an `Encoder`; raises `BundleError` if the folder is no checkpoint."""
    return load_encoder_and_model(checkpoint)[0]
