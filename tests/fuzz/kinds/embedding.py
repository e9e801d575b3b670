"""Shared by the kinds that embed with the tiny bundle."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime import Encoder

from fuzz.guard.worker import Room
from fuzz.kinds.base import TINY_BUNDLE, Kind
from fuzz.outcome import RefusedError, WrongError, check_vectors


class Embedding(Kind):
    """A kind whose cases are embedded with the tiny bundle, which is loaded once."""

    def open(self, room: Room) -> None:
        """Loads the encoder and embeds once, so that nothing is imported during a case."""
        super().open(room)
        self.encoder = load_tiny()

    def embed(self, item: Any, rows: int = 1, **options: Any) -> np.ndarray:
        """Returns the checked vectors of an input."""
        vectors = self.encoder.encode(item, **options)
        check_vectors(vectors, rows, self.encoder.dim)
        return vectors


_encoder: list[Encoder] = []


def load_tiny() -> Encoder:
    """Returns the encoder of the tiny bundle, which the kinds of one worker share."""
    if not _encoder:
        from fuzz.media.pages import write_pdf
        from fuzz.media.pictures import pattern
        from fuzz.media.videos import videos

        encoder = Encoder.load(TINY_BUNDLE, backend="onnxruntime", threads=1)
        # whatever is imported late is imported now
        encoder.encode(["a", pattern(), {"video": videos()[0].data}])
        Path("warm.pdf").write_bytes(write_pdf())
        encoder.encode(Path("warm.pdf"))
        _encoder.append(encoder)
    return _encoder[0]


def run_command(main: Any, arguments: list[str], stdin: str | None = None) -> str:
    """Runs a command line in this process and returns what it printed on stdout.

    Raises:
        RefusedError: the exit code is 1 or 2; the message is the last line on stderr.
        WrongError: the exit code is another one, or control characters were printed.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as error:  # argparse
            code = error.code
    for text in (out.getvalue(), err.getvalue()):
        if control := [sign for sign in text if _controls_a_terminal(sign)]:
            raise WrongError(f"printed {control[0]!r}")
    if code in (1, 2):
        raise RefusedError((err.getvalue().strip() or out.getvalue().strip()).split("\n")[-1])
    if code != 0:
        raise WrongError(f"exit code {code}")
    return out.getvalue()


def _controls_a_terminal(sign: str) -> bool:
    # the streams of the programs replace what they cannot encode, such as half an emoji
    surrogate = "\ud800" <= sign <= "\udfff"
    return not (sign.isprintable() or sign in "\n\t\r" or surrogate)


@contextlib.contextmanager
def warned() -> Iterator[list[str]]:
    """Yields a list that fills with the warnings of the block, logged or raised."""
    messages: list[str] = []

    class _Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("lame_runtime"), _Handler(logging.WARNING)
    logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield messages
        finally:
            logger.removeHandler(handler)
            messages.extend(str(entry.message) for entry in caught)
