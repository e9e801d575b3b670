"""Adapters of an encoder for other libraries, which must be installed separately.

mteb            an encoder as a model of the Massive Text Embedding Benchmark
pytest_plugin   every row of a certificate as a test
triton          an encoder in the Python backend of Triton Inference Server
"""
