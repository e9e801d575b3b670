"""LaME training: the two-stage recipe, from rows of pictures and texts to a checkpoint.

Importing this package is free of torch, so that the torch-free pieces (data formats, the digits
data set) can be used alone.
"""

__version__ = "0.1.0"
