"""The commands of `lame-train`, a module each: `add(commands)` declares its flags and what runs.

Nothing here imports torch before a command runs.
"""
