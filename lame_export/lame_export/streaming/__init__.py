"""Runs graphs in memory piece by piece, so that neither weights nor attention have to fit at once.

pieces             cuts a graph
attention_blocks   attention over some of the queries at a time
running            runs the pieces over inputs
streamed_backend   the runtime's backend interface over it
"""
