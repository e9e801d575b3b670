"""Counts the cores that a process may use, for the number of threads that prepare inputs."""

from __future__ import annotations

import functools
from pathlib import Path

from lame_runtime.options import usable_cores

MOST_DEFAULT_WORKERS = 8
"""Most threads that are started by default. More seldom help: eight pictures of 12 megapixels take
all the memory that decoders may have."""

_QUOTA_FILES = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Files of a container's share of CPU time, in versions 2 and 1 of control groups: the quota and
the period in microseconds."""


def default_workers() -> int:
    """Returns how many threads prepare inputs if the caller does not say."""
    quota = _quota()
    cores = usable_cores() if quota is None else min(usable_cores(), quota)
    return min(cores, MOST_DEFAULT_WORKERS)


@functools.cache
def _quota() -> int | None:
    """Returns the cores that a container's quota amounts to, at least one; None without a quota."""
    for names in _QUOTA_FILES:
        try:
            words = [word for name in names for word in Path(name).read_text("ascii").split()]
            quota, period = (int(word) for word in words)
        # no such file, no permission, or no quota: the word "max"
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            # half a core more or less would not change which number of threads is best
            return max(1, round(quota / period))
    return None
