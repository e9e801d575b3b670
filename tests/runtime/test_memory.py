"""Tests what the runtime reads about memory: the machine's, a container's, and its own peak."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from lame_runtime.machine import memory
from lame_runtime.machine.memory import available_memory, peak_memory, reset_peak_memory

GB = 10**9


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a machine with 8 GB to spare, whose files lie in a folder."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    write(tmp_path / "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable: {8 * GB // 1024} kB\n")
    return tmp_path


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_a_machine_without_groups_gives_what_it_has(system: Path) -> None:
    """Programs in no group may take what the machine can spare."""
    assert available_memory() == 8 * GB // 1024 * 1024
    write(system / "proc/self/cgroup", "0::/")
    assert available_memory() == 8 * GB // 1024 * 1024


def test_the_narrowest_group_of_version_2_counts(system: Path) -> None:
    """A limit anywhere above the process holds; files that can be dropped are free."""
    write(system / "proc/self/cgroup", "0::/user/job")
    write(system / "cgroup/user/job/memory.max", "max")
    write(system / "cgroup/user/memory.max", 3 * GB)
    write(system / "cgroup/user/memory.current", 2 * GB)
    assert available_memory() == GB
    write(system / "cgroup/user/memory.stat", f"anon 5\ninactive_file {GB}\nactive_file 7")
    assert available_memory() == 2 * GB + 7
    write(system / "cgroup/user/job/memory.max", GB)
    write(system / "cgroup/user/job/memory.current", 3 * GB)
    assert available_memory() == 0


def test_groups_of_version_1_count(system: Path) -> None:
    """In a container, the path of the group is the host's, and its files lie at the root."""
    write(system / "proc/self/cgroup", "5:devices:/x\n4:cpu,memory:/host/path/of/it\n0::/")
    write(system / "cgroup/memory/memory.limit_in_bytes", 4 * GB)
    write(system / "cgroup/memory/memory.usage_in_bytes", GB)
    assert available_memory() == 3 * GB
    write(system / "cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 10")
    assert available_memory() == 3 * GB + 10
    # how version 1 writes that there is no limit
    write(system / "cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    assert available_memory() == 8 * GB // 1024 * 1024


@pytest.mark.parametrize("text", ["", "MemAvailable:", "MemAvailable: many kB", "\x00"])
def test_a_system_that_tells_nothing_gives_none(text: str, system: Path) -> None:
    """Other systems have no such files, and sandboxes show odd ones."""
    write(system / "proc/meminfo", text)
    assert available_memory() is None
    assert peak_memory() is None
    reset_peak_memory()


def test_the_peak_is_that_since_the_reset() -> None:
    """It rises with what was held, although that has been freed."""
    if not reset_peak_memory():
        pytest.skip("this system does not reset the peak")
    before = peak_memory()
    assert before is not None
    # Mapped: the heap can hold room that an earlier test freed, and keeps what it touches there.
    with mmap.mmap(-1, 200 * 2**20) as pages:
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1
    after = peak_memory()
    assert after is not None
    assert after - before > 150_000_000
    assert reset_peak_memory()
    assert (peak_memory() or 0) < after - 150_000_000
