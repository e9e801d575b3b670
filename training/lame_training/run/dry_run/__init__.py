"""`lame-train run RECIPE --dry-run`: a run in words, without training anything.

description.py      the recipe, its data sets and its parts, as lines of text
input_check.py      the rows that the run would leave out
weightless_model.py the run's model without memory for its weights
memory_estimate.py  how much memory one process of the run needs
"""
