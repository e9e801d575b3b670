"""A GPU for tests on machines without one: libcudart and TensorRT as recording stand-ins.

They compute (with ONNX Runtime) and they are strict. Work runs only when its stream is waited for,
memory is filled with NaN, and a wrong order, size or lifetime is an error at once. Everything about
an engine but its speed can be tested with them. What they offer is checked against the real
bindings in `tests/export/test_bindings.py`.

cudart     libcudart: memory, streams, CUDA graphs
tensorrt   `make_tensorrt`: the module of a version of TensorRT or TensorRT-RTX
enums      enumerations and the two abstract callbacks
network    the network that the ONNX parser fills, and optimization profiles
builder    builder and its configuration
execution  runtime, engine, execution context, refitter
placed     puts both where the runtime looks for CUDA and TensorRT
"""

from recording_gpu.cudart import GpuMisuseError, RecordingCudart
from recording_gpu.tensorrt import make_tensorrt

__all__ = ["GpuMisuseError", "RecordingCudart", "make_tensorrt"]
