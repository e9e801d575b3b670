"""Files of an index.

index_columns  values beside the vectors, and comparisons with them
column_writer  writes them
array_files    arrays in files, written piece by piece and memory-mapped
"""
