"""The border between the command lines and the operating system: signals, streams and names.

interruption   signals as exceptions, and what is left of them after an import
streams        standard streams that are closed or cannot be written
handed_over    what a shell has opened for the process: stdin, `<(…)`
outputs        outputs that would replace what the same command reads
"""
