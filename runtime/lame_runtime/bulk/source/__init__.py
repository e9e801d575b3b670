"""Corpora as rows: folders, files, JSONL, CSV, Parquet and stdin.

corpus    sources in their order, one row after the other
columns   columns of tables that hold inputs and ids
rows      one row: an input, the columns that are kept, and an id of the content
"""
