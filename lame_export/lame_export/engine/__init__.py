"""Builds TensorRT plans from a bundle's ONNX graphs, with TensorRT 10.3 to 11 or TensorRT-RTX.

    features         names that not every version of TensorRT has
    profiles         optimization profiles from the contract's limits and a memory budget
    largest          the largest picture or video frame that a contract accepts
    network          one ONNX graph as a strongly typed network, and a plan from it
    fallback_levels  networks that compute more in FP32, for devices with wrong fused kernels
    build_job        what to build, and the facts that identify a build
    build            the two plans of a job, with or without precision fallbacks
    build_files      build folders and timing caches on disk
    progress         a progress bar for the builder, and Ctrl-C while it runs

The package needs only `lame_runtime` and a TensorRT module, so it also runs on the device that will
run the plans. TensorRT-RTX builds have run without a GPU. Builds with TensorRT 10.3 to 11 are
checked against the real Python bindings but have not run on a device yet.
"""
