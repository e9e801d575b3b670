"""Kills, full disks and long use, which take minutes and run from the command line.

    python -m fuzz.endurance.kill --moments 100       kill -9 at random moments; then again
    python -m fuzz.endurance.full_disk --sizes 20     a small disk
    python -m fuzz.endurance.leaks --calls 20000      memory, handles and threads

jobs    what is killed or runs out of space: embed, train, export, engine
child   one job in a process of its own
whole   whether the files of a folder are complete
"""
