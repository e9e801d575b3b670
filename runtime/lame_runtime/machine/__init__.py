"""Facts about this machine, and how much of it this process may use.

memory    how much memory may still be taken, and the most that was
"""
