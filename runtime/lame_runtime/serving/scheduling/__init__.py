"""Who is prepared next, what runs together, and the thread of the backend.

There is no timer: the next batch forms while one runs, and is taken when the backend is free. A
batch is limited by padded tokens and by patches. Requests take turns, item by item, so that a list
of thousands does not keep a single text waiting.

jobs            one request's items on their way to vectors
fair_queue      requests in turn: what is prepared next, what may run next (no threads)
batch_forming   which of the items that are ready run together (no threads)
preparing       the threads that prepare items
backend_thread  the one thread that runs the backend, and tries failed batches again
scheduler       the three of them, behind one lock
"""
