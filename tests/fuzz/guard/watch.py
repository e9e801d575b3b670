"""Notices what a process opens, starts or connects to while a case runs.

Three means together, because none sees everything:

    audit hook   what Python code opens, imports and unpickles
    inotify      whoever opens the forbidden folder, native libraries included
    seccomp      ends the process (SIGSYS) when it makes a socket or a process, or runs a program
"""

from __future__ import annotations

import ctypes
import os
import platform
import site
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_FORBIDDEN = {
    "x86_64": (41, 57, 58, 59, 322),  # socket, fork, vfork, execve, execveat
    "aarch64": (198, 221, 281),  # socket, execve, execveat
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_CLONE_THREAD = 0x10000
_AUDITED = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "pickle.find_class",
)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CAPABILITIES = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


class Watch:
    """Records what a case does that its input does not ask for.

    Args:
        work: folder that cases may read and write.
        elsewhere: folder that nothing may open.
        is_expected: whether an audit event with its arguments is what the project does itself.
    """

    def __init__(
        self,
        work: Path,
        elsewhere: Path,
        is_expected: Callable[[str, tuple[object, ...]], bool] = lambda event, arguments: False,
    ) -> None:
        self._is_expected = is_expected
        self._work = f"{work.resolve()}/"
        self._elsewhere = f"{elsewhere.resolve()}/"
        root = Path(__file__).resolve().parents[3]
        readable = [root, sys.prefix, sys.base_prefix, *site.getsitepackages()]
        self._readable = tuple(f"{Path(folder).resolve()}/" for folder in readable)
        self._readable += ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib")
        self._events: list[str] = []
        self._active = False
        self._inotify = _watch_folder(elsewhere)
        # an audit hook cannot be removed, so it is silent between cases
        sys.addaudithook(self._audit)

    def start(self) -> None:
        """Begins a case."""
        self._events.clear()
        _drain(self._inotify)
        self._active = True

    def stop(self) -> str:
        """Ends a case; returns the first thing that it should not have done, or ""."""
        self._active = False
        if not self._events and (name := _drain(self._inotify)):
            self._events.append(f"opened elsewhere/{name}")
        return self._events[0] if self._events else ""

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            self._opened(arguments)
        elif event in _AUDITED and not self._is_expected(event, arguments):
            self._events.append(f"{event} {arguments!r:.120}")

    def _opened(self, arguments: tuple[object, ...]) -> None:
        name, flags = arguments[0], arguments[2]
        if not isinstance(name, str | bytes | os.PathLike):
            return
        # not while the path is resolved, which may itself be audited
        self._active = False
        try:
            path = os.path.realpath(os.fsdecode(name))
        except (OSError, ValueError):
            return
        finally:
            self._active = True
        if path.startswith(self._work):
            if path.endswith(_PICKLES):
                self._events.append(f"opened a pickle: {Path(path).name}")
            return
        writes = isinstance(flags, int) and bool(flags & _WRITING) and path != os.devnull
        if writes or not path.startswith(self._readable):
            # links of the work folder's parents may have been resolved
            short = path.replace(self._elsewhere, "elsewhere/")
            self._events.append(f"{'wrote' if writes else 'opened'} {short}")


def make_elsewhere(folder: Path) -> None:
    """Fills the forbidden folder with what a hostile file might refer to."""
    from PIL import Image

    folder.mkdir(parents=True)
    Image.new("RGB", (28, 28), (200, 30, 90)).save(folder / "secret.png")
    (folder / "secret.txt").write_text("SECRET-KEY-0123456789" * 200)
    (folder / "secret.data").write_bytes(b"SECRET-KEY-01234" * 40_000)
    (folder / "secret.jsonl").write_text('{"text": "secret"}\n')


def make_module(folder: Path, elsewhere: Path) -> None:
    """Writes `evil_module`, which opens the forbidden folder when it is imported."""
    folder.mkdir(parents=True)
    (folder / "evil_module.py").write_text(f"open({str(elsewhere / 'secret.txt')!r}).read()\n")


def forbid_sockets_and_processes(*, sockets_alone: bool = False) -> bool:
    """Ends this process with SIGSYS when it makes a socket or another process, from now on.

    Args:
        sockets_alone: forbid only sockets; the process may start others, which inherit the ban.

    Returns:
        Whether the kernel can do that.
    """
    numbers = _FORBIDDEN.get(platform.machine())
    if sys.platform != "linux" or numbers is None:
        return False
    if sockets_alone:
        numbers = numbers[:1]
    load, equal, has, answer = 0x20, 0x15, 0x45, 0x06
    allow, end, unknown = 0x7FFF0000, 0x80000000, 0x00050000 | 38
    instructions = [
        (load, 0, 0, 0),  # the number of the system call
        # the flags of clone3 lie in memory, which a filter cannot read; without it, clone is used
        (equal, 0, 1, _CLONE3),
        (answer, 0, 0, unknown),
    ]
    for number in numbers:
        instructions += [(equal, 0, 1, number), (answer, 0, 0, end)]
    instructions += [
        (equal, 0 if sockets_alone else 1, 0, _CLONE[platform.machine()]),
        (answer, 0, 0, allow),
        (load, 0, 0, 16),  # the flags of clone
        (has, 0, 1, _CLONE_THREAD),
        (answer, 0, 0, allow),
        (answer, 0, 0, end),
    ]
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    # without new privileges, which is what lets an ordinary user set a filter
    return (
        libc.prctl(38, 1, 0, 0, 0) == 0
        and libc.prctl(22, 2, ctypes.create_string_buffer(header), 0, 0) == 0
    )


def give_up_the_rights_of_root() -> None:
    """Makes permissions of files hold for root as well, so that a file can be made unreadable."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("II", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    if libc.capget(header, data) == 0:
        words = list(struct.unpack("6I", data.raw))
        words[0] &= ~_CAPABILITIES
        libc.capset(header, struct.pack("6I", *words))


def private_temporary_folder(folder: Path) -> None:
    """Makes `tempfile` use a folder of the worker."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = str(folder)


def _watch_folder(folder: Path) -> int:
    if sys.platform != "linux":
        return -1
    libc = ctypes.CDLL(None, use_errno=True)
    handle: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if handle >= 0:
        # opened, read, written, created, deleted
        libc.inotify_add_watch(handle, os.fsencode(folder), 0x20 | 0x1 | 0x2 | 0x100 | 0x200)
    return handle


def _drain(handle: int) -> str:
    """Empties the queue of inotify; returns the name of the first file in it, or ""."""
    if handle < 0:
        return ""
    try:
        data = os.read(handle, 1 << 16)
    except BlockingIOError:
        return ""
    length = struct.unpack_from("iIII", data)[3]
    return data[16 : 16 + length].rstrip(b"\0").decode(errors="replace") or "."
