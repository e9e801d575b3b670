"""A server under a long load of mixed requests; `make soak` runs it.

mixed_requests   what clients send, and what each must get
soak_clients     clients that send, check and hang up
__main__         starts the server, watches its memory, prints and writes what was seen
"""
