"""Runs a command, prints any error on one line, and returns the exit code.

The three programs of LaME share this module, so that they handle errors, interrupts, termination
signals and broken pipes alike and agree on exit codes.
"""

from __future__ import annotations

import argparse
import errno
import logging
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence

from lame_runtime.cli.system.interruption import Interruption, signals_as_exceptions
from lame_runtime.cli.system.streams import discard, is_writable, open_streams, print_note
from lame_runtime.errors import LameError, printable, shown

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_ARGUMENT = re.compile(r"`(?P<name>[a-z_]+)(?:=(?P<value>[^`]*))?`")


def run_command(
    parser: argparse.ArgumentParser | Callable[[], argparse.ArgumentParser],
    arguments: Sequence[str] | None,
    stopped: str,
) -> int:
    """Parses the arguments, calls `options.run(options)` and turns the outcome into an exit code.

    Args:
        parser: the program's parser, or a function that makes it; each command sets the defaults
            `run` and `parser`. A function is called when signals are handled already, because what
            it imports takes half a second.
        arguments: the arguments; None takes those of the process.
        stopped: end of the message after ctrl-C, such as "nothing was written".

    Returns:
        0 on success, 1 if a check or the work failed, 2 for wrong use or bad input, 130 after
        ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 141 if the reader of stdout has gone away.
    """
    with signals_as_exceptions() as received:
        try:
            with open_streams():
                return _outcome(parser, arguments, received)
        except KeyboardInterrupt as interrupt:
            print_note(f"stopped; {stopped}")
            number = interrupt.number if isinstance(interrupt, Interruption) else signal.SIGINT
            # shells report a process that was ended by a signal like this
            return 128 + number


def _outcome(
    parser: argparse.ArgumentParser | Callable[[], argparse.ArgumentParser],
    arguments: Sequence[str] | None,
    received: list[int],
) -> int:
    # Pillow warns about damaged EXIF blocks and the like; unreadable pictures raise errors anyway
    warnings.filterwarnings("ignore", module="PIL")
    options = argparse.Namespace()
    try:
        try:
            parser = parser if isinstance(parser, argparse.ArgumentParser) else parser()
            options = parser.parse_args(arguments)
            _configure_logging(verbose=getattr(options, "verbose", False))
            code = int(options.run(options))
            # flush here, because a write error at interpreter exit could not be handled
            sys.stdout.flush()
            # an error that came of the interruption may have been taken for a finding, as by `info`
            return 128 + received[-1] if received else code
        except Exception:
            # native code that was interrupted while it was imported raises an error of its own
            if received:
                raise Interruption(received[-1]) from None
            raise
    except LameError as error:
        command = getattr(options, "parser", None) or argparse.ArgumentParser()
        print_note(f"error: {with_flags(str(error), command)}")
        return error.exit_code
    except MemoryError:
        # suggest only flags that the command has
        has_batches = hasattr(options, "batch_size")
        remedy = (
            "use a smaller --batch-size" if has_batches else "free some, or use a smaller model"
        )
        print_note(f"error: out of memory; {remedy}")
        return 1
    except BrokenPipeError:
        discard(1)
        return 128 + signal.SIGPIPE
    except OSError as error:
        # the commands translate errors of files
        if error.errno not in _DISK_ERRORS:
            raise
        # what could not be written is in the buffer still, if there is one (PYTHONUNBUFFERED)
        is_buffered = not getattr(sys.stdout, "write_through", False)
        if error.filename is None and not (is_buffered and is_writable(sys.stdout)):
            discard(1)
            print_note(f"error: the standard output cannot be written ({error.strerror})")
        else:
            name = "a file or stream" if error.filename is None else shown(error.filename)
            print_note(f"error: {name}: cannot be read or written ({error.strerror}); check it")
        return 2


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
