"""LaME export: from a checkpoint to ONNX graphs, TensorRT plans and a certificate that proves them.

Importing this package is free of torch; only `lame_export.passes.trace` and what runs the
PyTorch reference import it.
"""

__version__ = "0.1.0"
