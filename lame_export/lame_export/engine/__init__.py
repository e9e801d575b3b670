"""ONNX → TensorRT plans, by TensorRT 10.3 to 11 or TensorRT-RTX, with the same code.

    features   what each version lacks, and the names we use
    profiles   ranges of batch, length and patches, from the contract's limits and a memory budget
    network    a graph parsed, strongly typed: the file's own types are the precision
    ladder     networks that compute more carefully, where a device's fused kernels are wrong
    build      two plans, sealed and keyed by all they depend on

Only `lame_runtime` and one of the two modules are needed, so this runs on the device. TensorRT-RTX builds were run
without a GPU; builds by TensorRT proper are written for 10.3 to 11 and have not been shown on a device yet.
"""
