"""Writes model repositories for Triton Inference Server.

repository      a bundle as a model of a repository, in a folder that appears when it is complete
serving         options of the model, and its `config.pbtxt`
bare_graphs     the graphs as models of their own, for Triton's ONNX Runtime backend
warmup_files    golden inputs as raw tensors, which Triton runs before the model is ready
version/        `model.py`, which runs inside of Triton and is not imported here

Only lame-runtime is needed to write a repository.
"""
