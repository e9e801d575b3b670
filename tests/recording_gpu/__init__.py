"""A GPU that is not there: libcudart and TensorRT as recording stand-ins, for everything about an engine but its speed.

They compute (with ONNX Runtime) and they are strict: work runs only when its stream is waited for, memory is filled with
NaN, and a wrong order, size or lifetime is an error at once. What they offer is checked against the real bindings.
"""

from recording_gpu.cudart import GpuMisuseError, RecordingCudart
from recording_gpu.tensorrt import make_tensorrt

__all__ = ["GpuMisuseError", "RecordingCudart", "make_tensorrt"]
