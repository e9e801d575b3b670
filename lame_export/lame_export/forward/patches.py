"""From the bytes of frames to embedded patches: the first layers of the vision tower.

They run in the graph, so that a picture reaches it as the bytes that it consists of. Patches as
processors give them are eight times as large: floats, and each picture twice, because a temporal
patch is made for two frames of a video.
"""

from __future__ import annotations

from typing import Any

import torch
from lame_runtime.contract.rules import ImageRules
from torch import Tensor, nn

from lame_export.forward.layers import frozen


class Pixels(nn.Module):
    """Frames → normalized patches.

    Args:
        images: sizes of patches, and mean and standard deviation of the channels.
    """

    def __init__(self, images: ImageRules) -> None:
        super().__init__()
        self.side = images.patch_size
        # of bytes, and one value for each of a strip, which is a row of a patch; (x - 255 mean) is
        # exact in FP32, so only the division rounds
        self.mean = frozen(self._by_strip([255 * mean for mean in images.mean]))
        self.rate = frozen(self._by_strip([1 / (255 * std) for std in images.std]))

    def _by_strip(self, channels: list[float]) -> Tensor:
        return torch.tensor(channels).repeat(self.side)

    def forward(self, frames: Tensor, strip_index: Tensor) -> Tensor:
        """Maps uint8 (N, T, S, 3 p²) and int32 (S, p) → (N, S, T, 3 p²)."""
        n, t, s, size = frames.shape
        # TensorRT takes bytes from outside only, and wants them cast at once
        strips = frames.to(torch.float32).reshape(n, t, s * self.side, 3 * self.side)
        rows = strips.index_select(2, strip_index.reshape(-1))
        rows = (rows - self.mean) * self.rate
        return rows.reshape(n, t, s, size).permute(0, 2, 1, 3)


class PatchEmbed(nn.Module):
    """Product of each patch with the convolution's kernel, whose stride is its size.

    Args:
        convolution: an `nn.Conv3d` over (channel, time, row, column).
    """

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        # (time, row and column and channel and width): the order of a frame's bytes
        kernel = convolution.weight.permute(2, 3, 4, 1, 0)
        self.depth, self.width = kernel.shape[0], kernel.shape[-1]
        self.weight = frozen(kernel.reshape(self.depth, -1))
        self.bias = None if convolution.bias is None else frozen(convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, S, T, 3 p²) → (N, S, C)."""
        n, s, t, size = x.shape
        # The last frame stands for those that are not given. The kernel of a single frame is thus
        # the sum of all kernels, and the picture is multiplied only once.
        given = torch.arange(t)
        stands_for = torch.minimum(torch.arange(self.depth), given[-1:])
        share = (given[:, None] == stands_for[None, :]).to(x.dtype)
        kernel = torch.matmul(share, self.weight).reshape(t * size, self.width)
        y = torch.matmul(x.reshape(n, s, t * size), kernel)
        return y if self.bias is None else y + self.bias
