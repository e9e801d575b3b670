"""Functions that rewrite an `onnx_ir.Model` in place, after it was traced and before it is written.

    scopes           names nodes by module; of the tracer's metadata, keeps only the module's class
    half             types a graph for FP16, with FP32 islands where half precision would be wrong
    emulate          turns an FP16 or INT8 graph into FP32 that rounds like it, to judge it on a CPU
    fuse             replaces attention and norms by fused operators of ONNX Runtime for CPUs
    fuse_attention   the part of `fuse` that matches attention and rotary embedding
    nodes            makes nodes, constants and values, and removes dead ones, for all the others

The rewrites that quantize are in `lame_export.quantization`. No rewrite adds or removes a graph
input or output, or changes its name, type or dimensions: the runtime relies on them.
"""
