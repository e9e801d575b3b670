"""Standard streams that a program was started without, or that cannot be written."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from lame_runtime.errors import printable


@contextlib.contextmanager
def open_streams() -> Iterator[None]:
    """Connects the standard streams that the process lacks to the null device.

    A program that is started with `2>&-` has no `sys.stderr`, and the next file that it opens takes
    the number of the stream: what a library then writes to it would end up in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # takes the lowest free number, which is this one
            os.open(os.devnull, os.O_RDWR)
    with contextlib.ExitStack() as stack:
        for name, redirect in (
            ("stdout", contextlib.redirect_stdout),
            ("stderr", contextlib.redirect_stderr),
        ):
            stream = getattr(sys, name)
            if stream is None:
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.enter_context(redirect(nowhere))
            # a console that cannot encode × or → shows ? instead of a traceback
            elif hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        yield
        # Python would raise the same error again at exit, and change the exit code
        if not is_writable(sys.stderr):
            discard(2)


def print_note(line: str) -> None:
    """Prints a printable line on stderr; nothing depends on whether somebody can read it."""
    with contextlib.suppress(OSError, ValueError):
        # `print` would take the standard output if the stream is None
        if sys.stderr is not None:
            print(printable(line), file=sys.stderr, flush=True)


def is_writable(stream: object) -> bool:
    """Returns whether what was printed on a stream can be written."""
    try:
        stream.flush()  # type: ignore[attr-defined]
    except (OSError, ValueError):
        return False
    return True


def discard(number: int) -> None:
    """Connects a standard stream to the null device, and so drops what is in its buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
