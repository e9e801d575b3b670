"""Vision attention for batches of many small pictures: one call per run of equally large pictures.

transformers calls attention once per picture and layer (unless flash attention is selected), which
costs more than the arithmetic if pictures are small. This is the same attention with fewer calls,
registered through transformers' attention interface. It is used in training and in the trials of
the ablation; parity and the evaluation of checkpoints use transformers' own path.

The patch embedding is computed as a matrix product. It is a convolution whose kernels do not
overlap, so the result is the same, and on a CPU this is three times as fast.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "flash_by_picture_size"
"""Name of the attention. transformers passes the whole packed batch and the boundaries between its
pictures only to implementations with "flash" in their name."""


def use_packed_attention(visual: Any) -> None:
    """Makes a vision tower of transformers use this attention and patch embedding, in place."""
    AttentionInterface.register(NAME, attend_packed)
    # the public `set_attn_implementation` refuses names with "flash" that are not transformers' own
    visual.config._attn_implementation = NAME  # noqa: SLF001
    visual.patch_embed.forward = partial(embed_patches, visual.patch_embed.proj)


def embed_patches(proj: nn.Conv3d, patches: Tensor) -> Tensor:
    """Applies the convolution `proj` to whole patches.

    Args:
        proj: kernel size and stride are those of a patch.
        patches: (patches, patch_dim).

    Returns:
        (patches, width of the tower), in the dtype of the weights.
    """
    return F.linear(patches.to(proj.weight.dtype), proj.weight.flatten(1), proj.bias)


def attend_packed(
    module: nn.Module,  # noqa: ARG001 (part of transformers' attention interface)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 (part of transformers' attention interface)
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    # the same boundaries for the keys, the longest picture, and a dropout of 0
    **_: Any,
) -> tuple[Tensor, None]:
    """Computes full attention inside each picture of a packed batch.

    Args:
        module: unused.
        query: (1, heads, patches of all pictures, head width).
        key: as `query`.
        value: as `query`.
        attention_mask: unused.
        scaling: factor of the scores.
        cu_seq_lens_q: (pictures + 1,) offsets of the pictures in the packed sequence.

    Returns:
        (1, patches, heads, head width), and None for the attention weights.
    """
    lengths = cu_seq_lens_q.diff().tolist()
    outputs = []
    start = picture = 0
    while picture < len(lengths):
        # neighbors of equal length make one batch (count, heads, size, head width); `assemble`
        # sorts pictures by grid, so the runs are long
        size = lengths[picture]
        count = 1
        while picture + count < len(lengths) and lengths[picture + count] == size:
            count += 1
        stop = start + count * size
        q, k, v = (
            x[0, :, start:stop].unflatten(1, (count, size)).transpose(0, 1)
            for x in (query, key, value)
        )
        output = F.scaled_dot_product_attention(q, k, v, scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        start, picture = stop, picture + count
    return torch.cat(outputs)[None], None
