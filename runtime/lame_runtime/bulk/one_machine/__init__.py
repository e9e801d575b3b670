"""One process that writes a table of vectors, and goes on where it was interrupted.

corpus_run   rows → parts → table → audit
part_files   parts that are complete, and the run that they belong to
seen_ids     different ids for rows of equal content
"""
