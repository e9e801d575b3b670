"""A vision tower for batches of many small pictures: one attention call per run of equally large pictures.

transformers' own path calls attention once per picture and layer, which on small pictures costs more than the
arithmetic. This is the same attention, registered through transformers' attention interface and used for
training and the ablation's trials; evaluation of checkpoints and parity run transformers' own path. The patch
embedding, a convolution whose kernels do not overlap, is taken as the product it is, which is three times as fast
on a CPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "flash_by_picture_size"
"""transformers hands a function with "flash" in its name the whole packed batch with its boundaries."""


def use_packed_attention(visual: Any) -> None:
    """Switches a vision tower to this attention and patch embedding."""
    AttentionInterface.register(NAME, attend_packed)
    visual.config._attn_implementation = NAME
    visual.patch_embed.forward = partial(embed_patches, visual.patch_embed.proj)


def embed_patches(proj: nn.Conv3d, patches: Tensor) -> Tensor:
    """(patches, patch_dim) → (patches, width of the tower), as the convolution `proj` over whole patches does."""
    return F.linear(patches.to(proj.weight.dtype), proj.weight.flatten(1), proj.bias)


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Full attention inside each picture of a packed batch.

    Args:
        module: unused, part of the interface.
        query: (1, heads, patches of all pictures, head width); `key` and `value` alike.
        key: see `query`.
        value: see `query`.
        attention_mask: unused, part of the interface.
        scaling: multiplies the scores.
        cu_seq_lens_q: (pictures + 1,) boundaries between pictures.

    Returns:
        (1, patches, heads, head width), and no weights.
    """
    lengths = cu_seq_lens_q.diff().tolist()
    outputs = []
    start = picture = 0
    while picture < len(lengths):
        size = lengths[picture]
        count = 1
        while picture + count < len(lengths) and lengths[picture + count] == size:
            count += 1
        stop = start + count * size
        q, k, v = (x[0, :, start:stop].unflatten(1, (count, size)).transpose(0, 1) for x in (query, key, value))
        outputs.append(F.scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1))
        start, picture = stop, picture + count
    return torch.cat(outputs)[None], None
