"""Serves a bundle inside of Triton Inference Server, whose own modules nothing here imports.

triton_requests   tensors and parameters of a request as inputs; refuses what names a file
triton_service    embeds a list of requests together, and keeps their errors apart

`lame-export triton` writes a model repository whose `model.py` uses both.
"""
