"""Inputs → prepared inputs, window after window, by threads where that pays.

windows          inputs → windows, in input order; what is read ahead, and how much may be held
thread_pool      the threads of one stream, from its first picture to its end
decoding_memory  what all decoders of one stream may take together
held_bytes       what an input takes while it waits, and once it is prepared

A window is what is sorted together. It ends after a number of inputs or of bytes, never because of
time, so batches and vectors do not depend on the number of threads.
"""
