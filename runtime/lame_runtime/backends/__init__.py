"""Backends run the two graphs of a model: the vision tower and the encoder.

base             the interface that all of them implement
device           facts about a GPU
select           which backend and graph a bundle is run with, and why
onnxruntime      ONNX Runtime on a CPU or a CUDA GPU
graph_interface  what a graph takes and returns, held against its contract
cuda_libraries   the libraries that ONNX Runtime needs on a GPU
telemetry        keeps ONNX Runtime's telemetry off
tensorrt         TensorRT and TensorRT-RTX plans, in a folder of their own
forks            processes that are forked while graphs are loaded
fake             deterministic vectors without a model, for tests
"""
