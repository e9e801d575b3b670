"""Evaluation suites: the tasks of a benchmark, how its files are read, how its figures are reported."""
