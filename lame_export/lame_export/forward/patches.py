"""The first step of the vision tower: from the bytes of frames to normalized patches.

It runs in the graph, so that a picture reaches it as the bytes that it consists of. Patches as
processors give them take eight times as much memory: they are floats, and hold a picture twice,
because a temporal patch is made for two frames of a video.
"""

from __future__ import annotations

import torch
from lame_runtime.contract.rules import ImageRules
from torch import Tensor, nn

from lame_export.forward.layers import frozen


class Pixels(nn.Module):
    """Normalizes the bytes of frames and orders them into patches.

    Args:
        images: sizes of patches, and mean and standard deviation of the channels.
    """

    def __init__(self, images: ImageRules) -> None:
        super().__init__()
        self.side, self.depth = images.patch_size, images.temporal_patch_size
        # one value per byte of a strip, which is a row of a patch: RGBRGB…. They are scaled to
        # 0..255, so that the graph needs one subtraction and one multiplication
        self.mean = frozen(self._by_strip([255 * mean for mean in images.mean]))
        self.scale = frozen(self._by_strip([1 / (255 * std) for std in images.std]))

    def _by_strip(self, channels: list[float]) -> Tensor:
        return torch.tensor(channels).repeat(self.side)

    def forward(self, frames: Tensor, strip_index: Tensor) -> Tensor:
        """Maps uint8 (N, T, S, 3 p²) and int32 (S, p) → (N, S, depth · 3 p²)."""
        n, t, s, size = frames.shape
        # TensorRT accepts uint8 only as an input of the graph that is cast immediately
        strips = frames.to(torch.float32).reshape(n, t, s * self.side, 3 * self.side)
        rows = strips.index_select(2, strip_index.reshape(-1))
        rows = ((rows - self.mean) * self.scale).reshape(n, t, s, size)
        # The last frame also stands for those that are missing, as a picture does for two. Adding
        # the kernels of both frames instead would save a product, but a kernel that is not constant
        # is not repacked, and the order of its sums then depends on the batch.
        sources = torch.minimum(torch.arange(self.depth), torch.arange(t)[-1:])
        whole = rows.index_select(1, sources).permute(0, 2, 1, 3)
        return whole.reshape(n, s, self.depth * size)


def by_bytes(kernel: Tensor) -> Tensor:
    """Orders a kernel (C, channel, time, row, column) as `Pixels` does: (C, depth · 3 p²)."""
    return kernel.permute(0, 2, 3, 4, 1).flatten(1)
