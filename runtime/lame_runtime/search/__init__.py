"""Searches vectors on the disk with NumPy alone: exactly, or in two stages.

    from lame_runtime.search import Index

    index = Index.open("pictures.index")
    matches = index.search(encoder.encode_query("a red bicycle"), top_k=5, where="kind=photo")

index          the `Index`: conditions, first stage, exact scores
index_facts    `index.json`: bundle, graph, precision and role of the vectors
index_writer   makes an index
sources/       vectors that an index is made from
storage/       files of an index: columns and arrays
conditions     conditions such as `label=7`
scoring        cosines with vectors of any precision
hamming        counts of differing signs
thumbnails     small pictures of what the index lists
nearest        the best rows of a scan
"""

from lame_runtime.search.index import Index, Matches

__all__ = ["Index", "Matches"]
