"""The first layers of the vision tower: from the bytes of frames to embedded patches.

They run in the graph, so that a picture reaches it as the bytes that it consists of. Patches as
processors give them take eight times as much memory: they are floats, and hold a picture twice,
because a temporal patch is made for two frames of a video.
"""

from __future__ import annotations

from typing import Any

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
        self.side = images.patch_size
        # one value per byte of a strip, which is a row of a patch: RGBRGB…. They are scaled to
        # 0..255, so that the graph needs one subtraction and one multiplication
        self.mean = frozen(self._by_strip([255 * mean for mean in images.mean]))
        self.scale = frozen(self._by_strip([1 / (255 * std) for std in images.std]))

    def _by_strip(self, channels: list[float]) -> Tensor:
        return torch.tensor(channels).repeat(self.side)

    def forward(self, frames: Tensor, strip_index: Tensor) -> Tensor:
        """Maps uint8 (N, T, S, 3 p²) and int32 (S, p) → (N, S, T, 3 p²)."""
        n, t, s, size = frames.shape
        # TensorRT accepts uint8 only as an input of the graph that is cast immediately
        strips = frames.to(torch.float32).reshape(n, t, s * self.side, 3 * self.side)
        rows = strips.index_select(2, strip_index.reshape(-1))
        rows = (rows - self.mean) * self.scale
        return rows.reshape(n, t, s, size).permute(0, 2, 1, 3)


class PatchEmbed(nn.Module):
    """Multiplies patches by the kernel of a convolution whose stride equals its kernel size.

    Args:
        convolution: an `nn.Conv3d` over (channel, time, row, column).
    """

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        # (time, row, column, channel, width): a frame's bytes are ordered by row, column, channel
        kernel = convolution.weight.permute(2, 3, 4, 1, 0)
        self.depth, self.width = kernel.shape[0], kernel.shape[-1]
        self.weight = frozen(kernel.reshape(self.depth, -1))
        self.bias = None if convolution.bias is None else frozen(convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, S, T, 3 p²) → (N, S, C)."""
        n, s, t, size = x.shape
        # The last frame also stands for those that are missing. So the kernel of a picture is the
        # sum of all kernels, and the picture is multiplied only once.
        frames = torch.arange(t)
        sources = torch.minimum(torch.arange(self.depth), frames[-1:])
        assignment = (frames[:, None] == sources[None, :]).to(x.dtype)
        kernel = torch.matmul(assignment, self.weight).reshape(t * size, self.width)
        y = torch.matmul(x.reshape(n, s, t * size), kernel)
        return y if self.bias is None else y + self.bias
