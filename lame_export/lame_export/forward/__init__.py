"""The forward that is traced: the single pass of LaME over a backbone's own weights.

Written for the graph, not for training: no cache, no padding mask, no shape that depends on data,
and attention as plain MatMul → Softmax → MatMul, which TensorRT fuses. Tests and every export hold
it against the forward of transformers.

    layers    linear layers, norms, rotary embedding, activations, attention
    vision    the vision towers of the families
    experts   a mixture of experts as one wide MLP
    encoder   the language model over prompt and latent rows
    trace     traces both to FP32 graphs

Names of classes and attributes are part of the graphs: they become names and metadata of nodes, by
which quantization, FP16 typing and bisection know what a node belongs to.

Axes: N pictures, S patches of one picture, M merged tokens of one picture, C vision width, B batch,
L padded length, R rows taken from L, D backbone width, W width of a feature row (D, and D more per
deepstack level), H heads, G key/value heads, d head width, P embedding length, F feature rows, V
rows of the token table.
"""

from lame_export.forward.encoder import SinglePassEncoder
from lame_export.forward.layers import MASKED
from lame_export.forward.vision import Vision

__all__ = ["MASKED", "SinglePassEncoder", "Vision"]
