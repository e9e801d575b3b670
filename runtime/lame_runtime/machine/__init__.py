"""Facts about this machine, and how much of it this process may use.

cores           how many threads prepare inputs by default
graph_memory    the memory of a graph on a CPU, and batches that fit beside it
memory          how much memory may still be taken, and the most that was
"""
