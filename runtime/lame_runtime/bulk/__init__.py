"""Embeds corpora to Parquet: on one machine, or on many.

vector_table    the format of the Parquet files: columns, reading and writing
vector_facts    what made the vectors, in the metadata of the files
arrow_modules   imports pyarrow, which is an extra
"""
