"""Hands hostile, damaged and odd inputs to everything that a user can call, and judges the outcome.

    python -m fuzz --minutes 30                # all kinds; `make fuzz MINUTES=30`
    python -m fuzz --cases 1000 --kinds media  # a fixed number of cases of one kind

A *kind* generates cases from a seed and runs them. A *case* is a dict that JSON can hold, so that
every fault becomes a seed file, which the tests replay forever. Cases run in worker processes with
limits, and a parent ends those that hang.

    case          cases as JSON: bytes, long texts, paths of the worker
    outcome       the verdict on one call
    campaign      kinds for some minutes or for a number of cases; the table
    seed_files    faults as files in `seeds/KIND/`
    smaller       cuts a case down while its fault stays
    guard/        worker processes, their limits, and what they open
    media/        small pictures, videos and PDFs, and ways to damage them
    kinds/        what is generated and called
    endurance/    kill -9 at random moments, full disks, leaks
"""
