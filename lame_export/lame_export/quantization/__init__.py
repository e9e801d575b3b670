"""INT8 and weight-only quantization: calibration, smoothing, the rewrites, and the search.

calibration   runs real inputs through the FP32 graphs and measures what every tensor reaches
measures      the nodes that measure, which calibration adds to a graph
lazy_batches  calibration inputs in batches, few of which are in memory at a time
smoothing     moves outliers from activations into weights, so that both quantize well
static_int8   Q/DQ around linear layers of an FP16 graph, for TensorRT ("int8")
cpu_int8      integer products for ONNX Runtime's CPU provider ("int8-cpu")
weight_only   weights in 8 or 4 bits for CPUs short of memory ("w8-cpu", "w4-cpu")
search        which strength, ranges and layers: what is tried, what it costs, which one wins
quantizer     applies a configuration of `search` to a traced model and measures its cost
"""
