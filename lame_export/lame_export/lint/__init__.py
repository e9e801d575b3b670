"""Rules that a graph must satisfy before a plan is built from it, checked on the ONNX file alone.

linter               the checks: operators, types, quantization, interface, and the graph's promise
foreign_graphs       graphs of bundles from others: checked first, and errors about them translated
tensorrt_operators   the operators and types that TensorRT 10.3 reads, as tables
"""
