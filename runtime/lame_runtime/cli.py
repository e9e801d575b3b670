"""What the three command lines share: one parser in, one exit code out, one line for whatever went wrong."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from lame_runtime.errors import LameError


def run_command(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, stopped: str) -> int:
    """Parses, calls `options.run(options)` and turns what happens into an exit code.

    Args:
        parser: its commands set `run`.
        arguments: None takes the process's own.
        stopped: what is left behind after ctrl-C, for the message.

    Returns:
        0 done, 1 a check failed, 2 wrong use or bad input, 130 after ctrl-C, 141 where nobody reads the output.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that cannot show × or → gets ? instead of a traceback
            stream.reconfigure(errors="replace")
    warnings.filterwarnings("ignore", module="PIL")  # damaged EXIF blocks and the like; pictures that cannot be read raise
    try:
        options = parser.parse_args(arguments)
        code = int(options.run(options))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except LameError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"stopped; {stopped}", file=sys.stderr)
        return 128 + signal.SIGINT
    except MemoryError:
        print("error: out of memory; use a smaller --batch-size", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered goes nowhere
        return 128 + signal.SIGPIPE


def path(text: str) -> Path:
    """A path argument; an empty one, as an unset shell variable leaves it, is refused rather than taken for the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)
