"""Reads bundles from disk and checks their integrity.

manifest      the table of contents, with the sha256 of every file
bundle        an opened bundle, and the files of its graphs
graph_source  the two files of a graph, opened so that the checked bytes are the bytes that run
golden        inputs that ship with a bundle, with PyTorch's embeddings
vector_file   `embeddings.npy`, read without trusting its header
members       files of a bundle by their names, and nothing outside of it
leftovers     files that hubs, clones and desktops leave
engine_files  the JSON files below `engines/`
certificate   the rows of `parity.json`: comparisons, figures and gates
"""
