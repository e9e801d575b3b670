"""Commands that embed whole corpora.

embed_table   `lame-runtime embed` with a Parquet file as its output
"""
