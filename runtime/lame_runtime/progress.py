"""Makes progress bars: tqdm on a terminal, occasional plain lines everywhere else.

A bar that redraws itself fills a log file with thousands of lines. In a pipe or a log, one line is
written for every 10 % of the work, and at least every 30 seconds. Work that takes less than two
seconds is not reported.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from lame_runtime.errors import printable

LINE_SHARE = 0.1
"""Share of the work after which a plain line is due."""
LINE_SECONDS = 30.0
"""Seconds after which a plain line is due, regardless of the share."""
QUIET_SECONDS = 2.0
"""Minimum number of seconds between two plain lines, and before the first one."""


class _PlainProgress(tqdm):  # type: ignore[misc]
    """Subclasses tqdm to write plain lines when they are due, instead of redrawing a bar."""

    disable: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line_time = time.monotonic()
        self._line_n = self.n
        self._lines = 0

    def __iter__(self) -> Iterator[Any]:
        # tqdm's own loop inlines `update`, so it would bypass the method below
        for item in self.iterable:
            yield item
            self.update()
        self.close()

    def update(self, n: float | None = 1) -> bool | None:
        """Counts `n` more and writes a line if one is due."""
        self.n += n or 0
        seconds = time.monotonic() - self._line_time
        far = bool(self.total) and self.n - self._line_n >= LINE_SHARE * self.total
        due = seconds >= LINE_SECONDS or (far and seconds >= QUIET_SECONDS)
        if due and not self.disable:
            self._write_line()
        return due

    def display(self, *_: Any, **__: Any) -> bool:
        """Draws nothing; tqdm calls this method to redraw the bar."""
        return True

    def close(self) -> None:
        """Writes a last line, if earlier ones were written and the count has changed since."""
        if not self.disable and self._lines and self.n != self._line_n:
            self._write_line()
        self.disable = True

    def __del__(self) -> None:
        # tqdm would close the bar here and print another line after an error
        self.disable = True

    def _write_line(self) -> None:
        elapsed = self.format_interval(self.format_dict["elapsed"])
        of_total = f"/{self.total:,} ({self.n / self.total:.0%})" if self.total else ""
        name = f"{self.desc.removesuffix(': ')}: " if self.desc else ""
        postfix = f", {self.postfix}" if self.postfix else ""
        line = f"{name}{self.n:,}{of_total} {self.unit} in {elapsed}{postfix}"
        # a log on a full disk must not end the work that it is about
        with contextlib.suppress(OSError, ValueError):
            print(printable(line), file=self.fp, flush=True)
        self._line_time, self._line_n = time.monotonic(), self.n
        self._lines += 1


def progress_bar(iterable: Any = None, **options: Any) -> Any:
    """Returns a progress bar on stderr: tqdm's on a terminal, plain lines otherwise.

    Args:
        iterable: the iterable whose items the bar counts; None if the caller calls `update`.
        options: keywords of `tqdm`: `total`, `initial`, `desc`, `unit`, `disable`.

    Returns:
        The bar; `update`, `set_postfix_str`, `close` and the `with` statement work as in tqdm.
    """
    # None if the process was started without the stream
    if sys.stderr is None:
        return tqdm(iterable, **{**options, "disable": True})
    if sys.stderr.isatty():
        return tqdm(iterable, file=sys.stderr, dynamic_ncols=True, **options)
    return _PlainProgress(iterable, file=sys.stderr, **options)
