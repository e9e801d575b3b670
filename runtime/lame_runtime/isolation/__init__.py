"""Tells a bad input from a backend that fails, for servers and for corpora.

batch_isolation   runs a batch, and what failed in it alone
probes            golden inputs, which show whether the backend works
"""
