"""Runs a command, prints any error on one line, and returns the exit code.

The three programs of LaME share this module, so that they handle errors, interrupts, termination
signals and broken pipes alike and agree on exit codes.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType

from lame_runtime.errors import LameError, printable

_TERMINATION = ("SIGTERM", "SIGHUP")
"""Signals that end a command as ctrl-C does; Windows has only the first."""
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_ARGUMENT = re.compile(r"`(?P<name>[a-z_]+)(?:=(?P<value>[^`]*))?`")


def run_command(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, stopped: str
) -> int:
    """Parses the arguments, calls `options.run(options)` and turns the outcome into an exit code.

    Args:
        parser: the program's parser; each command sets the defaults `run` and `parser`.
        arguments: the arguments; None takes those of the process.
        stopped: end of the message after ctrl-C, such as "nothing was written".

    Returns:
        0 on success, 1 if a check or the work failed, 2 for wrong use or bad input, 130 after
        ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 141 if the reader of stdout has gone away.
    """
    for stream in (sys.stdout, sys.stderr):
        # a console that cannot encode × or → shows ? instead of a traceback
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # Pillow warns about damaged EXIF blocks and the like; unreadable pictures raise errors anyway
    warnings.filterwarnings("ignore", module="PIL")
    options = argparse.Namespace()
    try:
        with _termination_as_exception():
            options = parser.parse_args(arguments)
            _configure_logging(verbose=getattr(options, "verbose", False))
            code = int(options.run(options))
            # flush here, because a write error at interpreter exit could not be handled
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
    except LameError as error:
        command = getattr(options, "parser", parser)
        print(f"error: {with_flags(str(error), command)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(f"stopped; {stopped}", file=sys.stderr)
        # shells report a process that was ended by a signal like this
        return 128 + (interrupt.number if isinstance(interrupt, _Termination) else signal.SIGINT)
    except MemoryError:
        # suggest only flags that the command has
        has_batches = hasattr(options, "batch_size")
        remedy = (
            "; use a smaller --batch-size" if has_batches else "; free some, or use a smaller model"
        )
        print(f"error: out of memory{remedy}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        _discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        # the commands translate errors of files; one without a name comes from a printed line
        if error.errno not in _WRITE_ERRORS or error.filename is not None:
            raise
        _discard_output()
        print(f"error: the standard output cannot be written ({error.strerror})", file=sys.stderr)
        return 2


class _Termination(KeyboardInterrupt):
    """Raised in place of a termination signal, so that temporary files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def _termination_as_exception() -> Iterator[None]:
    """Raises `_Termination` for signals that would end the process without any cleanup.

    Signals that somebody else handles or ignores stay as they are: `nohup` ignores SIGHUP.
    """
    process = os.getpid()
    numbers = [getattr(signal, name) for name in _TERMINATION if hasattr(signal, name)]
    # only the main thread may set handlers
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    replaced = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def terminate(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:
            # a forked worker inherits the handler, but has nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        # a second signal must not interrupt the cleanup
        for other in replaced:
            signal.signal(other, signal.SIG_IGN)
        raise _Termination(number)

    for number in replaced:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def _discard_output() -> None:
    """Discards buffered output, because Python would raise the same error again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def with_flags(message: str, parser: argparse.ArgumentParser) -> str:
    """Replaces arguments in backticks by the flags of a command that set them.

    Library messages name arguments, because the library also runs outside the command line. Names
    without a flag stay unchanged.

    >>> parser = argparse.ArgumentParser()
    >>> _ = parser.add_argument("--batch-size", type=int)
    >>> with_flags("`batch_size` is 0: use 1 or more", parser)
    '--batch-size is 0: use 1 or more'
    """
    flags: dict[str, str] = {}
    # positional arguments have no option strings and are shown by their metavar
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of its arguments
        long = [option for option in action.option_strings if option.startswith("--")]
        if long:
            flags[action.dest] = long[0]
        elif not action.option_strings and action.dest.isidentifier():
            flags[action.dest] = str(action.metavar or action.dest.upper())

    def flag(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        # code in backticks, or an argument that only the library has
        if name not in flags:
            return match[0]
        # a switch takes no value on the command line
        return flags[name] if value in (None, "True") else f"{flags[name]} {value.strip(chr(34))}"

    return _ARGUMENT.sub(flag, message)


class _Formatter(logging.Formatter):
    """Formats records as the command lines print errors: `warning: …`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as one printable line without a timestamp."""
        return printable(f"{record.levelname.lower()}: {record.getMessage()}")


def _configure_logging(*, verbose: bool) -> None:
    """Shows warnings of the library on stderr, and with `--verbose` also its decisions."""
    # a new handler each time, because an earlier one may refer to a stderr that was replaced
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    for package in ("lame_runtime", "lame_training", "lame_export"):
        logger = logging.getLogger(package)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if verbose else logging.WARNING)
