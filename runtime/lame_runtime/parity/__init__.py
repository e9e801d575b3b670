"""Checks that graphs compute the same vectors as PyTorch, on the device that serves them.

gates       the bounds of all checks in one table
embeds      the protocol of encoders that can be checked
compare     an encoder against the golden vectors
verify      the certificate repeated on this device
on_device   the check of TensorRT plans before their first use
junit       the results as a JUnit XML report
"""
