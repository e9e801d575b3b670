"""Reads ONNX files without the `onnx` package, and refuses those that could do harm.

protobuf     the wire format of protocol buffers, strictly
onnx_fields  the fields and operators that a graph may have
divisions    divisions that could end the process
onnx_graph   inputs, outputs and weights of a graph
"""
