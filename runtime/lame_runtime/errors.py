"""Defines every error that LaME raises, in one tree.

    LameError
    ├── InputError       what to embed: not a picture, empty, too large, not Unicode  exits with 2
    ├── UsageError       how something was called: an argument that does not fit      exits with 2
    ├── StorageError     the disk: no such folder, no permission, no space left       exits with 2
    ├── BundleError      a bundle, checkpoint or backbone folder that cannot be used  exits with 2
    ├── BackendError     no backend can run here, or a run failed                     exits with 1
    │   ├── DeviceError  the GPU or its driver failed, or its memory ran out          exits with 1
    │   └── ProofError   plans do not reproduce the golden vectors on this device     exits with 1
    ├── ExportError      a pass of the exporter failed, or a gate was not met         exits with 1
    └── TrainingError    the loss diverged, or the processes of a run differ          exits with 1

Exceptions of other libraries are translated into these where they occur. A message is one line that
says what is wrong, with which value, and what to do. Names of arguments are in backticks
(`` `threads` is 0 ``); the command lines replace them with the flag that sets the argument.

Values in a message may come from an attacker: `LameError` escapes control characters, and `shown`
cuts long values.
"""

from __future__ import annotations

import re

_QUOTES = re.compile(r"(cannot be \w+|are not supported) \(.*\)(?=[;:]|$)")
"""Messages that quote another library do so in parentheses."""


class LameError(Exception):
    """Base class of every error in this module.

    The message is one printable line: line breaks and control characters are escaped, because a
    terminal would obey them.
    """

    exit_code = 2
    """Exit code of the command lines: 1 if a check or the work failed, 2 for wrong use."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class InputError(LameError):
    """An input cannot be embedded, or a data set's row cannot be read as one."""


class UsageError(LameError):
    """An argument is invalid, or arguments contradict each other."""


class StorageError(LameError):
    """A file or folder cannot be read or written: missing, not permitted, or no space left."""


class BundleError(LameError):
    """A bundle, checkpoint or backbone folder is incomplete, damaged or of another kind."""


class BackendError(LameError):
    """The graphs could not be run, or what they returned cannot be trusted."""

    exit_code = 1


class DeviceError(BackendError):
    """The GPU or its driver failed, or its memory ran out; the graph may still be correct."""


class ProofError(BackendError):
    """TensorRT plans do not reproduce the bundle's golden vectors on this device."""


class ExportError(LameError):
    """A pass of the exporter failed or a gate was not met; no bundle is left behind."""

    exit_code = 1


class TrainingError(LameError):
    """Training cannot continue: the loss is not finite, or the processes of a run differ."""

    exit_code = 1


FOREIGN_CHARACTERS = 240
"""Number of characters of another library's message that a message quotes."""


def first_line(error: BaseException) -> str:
    """Returns the first non-blank line of an exception's message, or the name of its class.

    Messages of LaME are one line, so they quote only the first line of another library's message.
    """
    lines = (line.strip() for line in str(error).splitlines())
    # ONNX Runtime's lines hold paths of its sources, and any library's may repeat an input
    return shown(next((line for line in lines if line), type(error).__name__), FOREIGN_CHARACTERS)


SHOWN_CHARACTERS = 80
"""Number of characters of a user's value that a message repeats."""


def printable(text: str) -> str:
    r"""Returns `text` with line breaks, control characters and lone surrogates escaped.

    >>> printable("red\x1b[31m")
    'red\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def without_quotes(message: str) -> str:
    """Returns a message without what it quotes of other libraries.

    People at the machine need the quotes, and strangers do not get them: such texts have held paths
    and addresses of the heap (CVE-2026-22778).
    """
    return _QUOTES.sub(r"\1", message)


def shown(value: object, most: int = SHOWN_CHARACTERS) -> str:
    """Returns a user's value for a message: printable, and cut in the middle if it is long.

    The end is kept longer than the beginning, because the end of a path names the file.

    >>> shown("a" * 60 + "/pictures/photo.png", 40)
    'aaaaaaaaaaaaa…aaaaaaa/pictures/photo.png'
    """
    if isinstance(value, bytes | bytearray):
        text = f"{len(value):,} bytes"
    else:
        try:
            text = str(value)
        except ValueError:  # an integer of thousands of digits has no text
            text = "a number with thousands of digits"
    # cut first, because escaping a long text costs time; escapes may make it longer again
    for _ in range(2):
        if len(text) > most:
            head = (most - 1) // 3
            text = f"{text[:head]}…{text[head + 1 - most :]}"
        text = printable(text)
    return text
