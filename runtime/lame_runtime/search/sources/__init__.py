"""Vectors that an index is made from.

table_source    Parquet files that `embed` wrote
array_source    `.npy` files, with facts and rows that the caller gives
"""
