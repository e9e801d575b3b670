"""Implements the program `lame-runtime`, and the arguments that the three programs share.

command_line      exit codes, error messages and logging of all three programs
grammar           arguments that mean the same in every program
main              the parser of all commands
embed_command     inputs to vectors
info_command      contents of a bundle, and the backend that would run here
verify_command    the certificate repeated on this device
bench_command     latency and throughput
benchmark         the measurement behind `bench`
sources           inputs named on a command line: files, folders, JSONL, stdin
retrieval/        an index, and searching it
server/           the HTTP server
system/           signals, standard streams, and outputs that would replace an input
"""
