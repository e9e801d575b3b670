"""Runs cases in worker processes with limits.

watch     what a worker opens, starts or connects to while a case runs
worker    the worker process
pool      the workers of a campaign; ends those that hang and starts others
"""
