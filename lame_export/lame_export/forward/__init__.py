"""The forward that is traced: the single pass of LaME over a backbone's own weights.

Written for the graph, not for training: no cache, no padding mask, no data-dependent shape, attention as
plain MatMul → Softmax → MatMul. Tests and every export hold it against transformers' own forward.

    layers      linear layers, norms, rotary embedding, activations, attention
    vision      the vision towers of the three families
    encoder     the language model over prompt and latent rows

Axes: N pictures, S patches of one picture, M merged tokens of one picture, C vision width, B batch, L padded
length, D backbone width, W width of a feature row (D, and D more per deepstack level), H heads, G key/value
heads, d head width, P embedding length, F feature rows.
"""

from lame_export.forward.encoder import SinglePassEncoder
from lame_export.forward.layers import MASKED
from lame_export.forward.vision import Vision

__all__ = ["MASKED", "SinglePassEncoder", "Vision"]
