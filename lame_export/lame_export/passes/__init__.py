"""The passes of the export plan, one file each; `lame_export.plan` says in which order they run.

base      what a pass is, and how it is run and checked
source/   checkpoint, golden inputs, traced graphs, contract, calibration
graphs/   half precision, INT8, weight-only
proof/    lint, TensorRT builds, parity, retrieval, certificate and manifest
"""
