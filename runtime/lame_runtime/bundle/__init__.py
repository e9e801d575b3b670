"""Reads bundles from disk and checks their integrity.

manifest      the table of contents, with the sha256 of every file
bundle        an opened bundle, and the files of its graphs
graph_source  the two files of a graph, opened so that the checked bytes are the bytes that run
golden        inputs that ship with a bundle, with PyTorch's embeddings
certificate   the rows of `parity.json`: comparisons, figures and gates
"""
