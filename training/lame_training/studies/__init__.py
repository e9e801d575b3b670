"""Experiments about the method itself; training and evaluating a model needs none of them.

ablation/            trains LaME with one part changed or left out, and compares the results
paradigms/           times four ways to embed on one backbone
digit_rows           tasks of growing difficulty on rows of digits, the data of the ablation
probe_reason_tokens  measures whether a trained checkpoint uses its reason tokens

Results are in training/results, the conclusions in training/LOG.md and runtime/BENCHMARKS.md of the
repository.
"""
