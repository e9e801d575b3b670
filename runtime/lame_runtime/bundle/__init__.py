"""Reads bundles from disk and checks their integrity.

manifest      the table of contents, with the sha256 of every file
bundle        an opened bundle, and the files of its graphs
golden        inputs that ship with a bundle, with PyTorch's embeddings
certificate   the rows of `parity.json`: comparisons, figures and gates
"""
