"""Passes that write the graphs of a bundle, except the traced FP32 ones.

fuse_fp32         the FP32 graphs for CPUs, with fused operators
type_half        half precision
choose_int8      search for the configuration of each INT8 graph
write_int8       INT8 for TensorRT
write_int8_cpu   INT8 for ONNX Runtime's CPU provider
write_weights    weight-only quantization to 8 or 4 bits
"""
