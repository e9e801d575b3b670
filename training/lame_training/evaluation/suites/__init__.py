"""Holds what evaluation suites share, and the two suites other than MMEB-V2.

suite            tasks, queries and pools, free of any file layout
tables           rows and cells of published parquet and JSON tables
collector        rows collected into a task, unusable ones counted
picture_store    pictures and video frames on disk, by the hash of their content
folders          creates folders for results and caches
digits_suite     the digits of `lame-train digits` as a suite
mrmr             MRMR, retrieval of interleaved texts and pictures
"""
