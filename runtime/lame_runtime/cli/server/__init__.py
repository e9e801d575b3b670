"""The command `serve`; what it runs is the package `serving`.

serve_command  arguments of the server, and one line for what is missing or wrong
"""
