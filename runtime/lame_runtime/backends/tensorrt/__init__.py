"""TensorRT and TensorRT-RTX: plans that were built for one GPU, run without PyTorch.

backend   `TrtBackend`: two plans on one GPU behind the interface of `backends.base`
worker    one stream: cuts a batch into pieces that the profiles take, keeps features on the GPU
session   an engine on one stream: execution contexts, recorded CUDA graphs
engine    a deserialized plan: its inputs, outputs and optimization profiles
buffers   GPU and pinned memory of one stream
cudart    CUDA's runtime library through ctypes
module    the Python module `tensorrt` or `tensorrt_rtx`, its logger and its errors
plans     plans of a bundle: their folders, their facts, and whether they are for this device

The names are public: `lame_export` builds and bisects plans with them.
"""
