"""Passes that check the graphs, and write the certificate and the manifest.

lint_graphs       onnx.checker and the project's own rules, on every file
build_engines     TensorRT-RTX builds, which need no GPU
prove_vectors     every graph against PyTorch on the golden vectors
prove_retrieval   every graph against PyTorch on evaluation rows
write_bundle      certificate and manifest
"""
