"""The log of a run: a progress bar, `losses.csv`, curves for TensorBoard, and rows left out.

Columns of `losses.csv`, one row per step:

    step      1-based, over all stages
    stage     name of the stage
    loss      the loss that was minimized
    nce       L_nce; empty in a stage without it
    rec       L_rec; empty in a stage without it
    rate      the largest learning rate of the step
    norm      norm of the gradient before clipping
    samples   training rows that the step was made of, over all processes
    seconds   time since the end of the step before
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from lame_runtime.errors import StorageError, printable
from lame_runtime.files.atomic import atomic_text
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.regular import read_regular
from lame_runtime.progress import progress_bar

from lame_training.data.step_batch import Dropped
from lame_training.objective.gradcache import Losses

logger = logging.getLogger(__name__)

MAX_LOG_BYTES = 4 << 30
"""Largest log that is read; a step takes about 80 bytes."""
_STEP = re.compile(r"[1-9][0-9]{0,11}")
COLUMNS = ("step", "stage", "loss", "nce", "rec", "rate", "norm", "samples", "seconds")


@dataclass(frozen=True)
class StepRecord:
    """A step as the log records it.

    Attributes:
        step: number of the step, 1-based, over all stages.
        stage: name of the stage.
        losses: losses over the batch of all processes.
        rate: largest learning rate of any part.
        norm: norm of the gradient before clipping.
        samples: training rows that the step was made of, over all processes. A row counts once, in
            every stage, however many inputs it has; rows that were left out do not count.
        seconds: time since the end of the step before.
    """

    step: int
    stage: str
    losses: Losses
    rate: float
    norm: float
    samples: int
    seconds: float


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Turns an `OSError` of the block, such as a full disk, into a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder}: its log cannot be written ({error.strerror or error}); "
            "free some space and continue with `resume=True`"
        ) from None


class Progress:
    """Writes the log of a run; used as a context.

    Its methods raise `StorageError` if the disk is full or refuses.

    Args:
        folder: the output folder.
        first: number of steps that earlier processes did; later rows of their log are removed.
        total: number of steps at which this process stops.
        show: whether to draw the bar.
        write: whether to write files; one of several processes does.
    """

    def __init__(self, folder: Path, first: int, total: int, *, show: bool, write: bool) -> None:
        self._folder, self._first, self._write = folder, first, write
        self._bar = progress_bar(
            total=total, initial=first, unit="step", disable=not (show and write)
        )
        self._dropped: dict[tuple[str, int, str, str], Dropped] = {}
        self._reported: set[str] = set()
        """Data sets of which a left-out row has been reported on the screen."""
        if write:
            # a run that was killed may have logged steps that its last state does not have
            _cut_log(folder / "losses.csv", first)
            for row in read_dropped(folder / "skipped.jsonl"):
                self._dropped[_key(row)] = row
                if row.number >= 0:
                    self._reported.add(row.data_set)

    def __enter__(self) -> Progress:
        if self._write:
            with _translated(self._folder):
                with warnings.catch_warnings():
                    # tensorboard's own dependencies warn about their future
                    warnings.simplefilter("ignore")
                    from torch.utils.tensorboard import SummaryWriter

                    # curves have no rows that could be cut: later points are purged instead
                    self._curves = SummaryWriter(
                        str(self._folder / "tensorboard"), purge_step=self._first + 1
                    )
                self._file = (self._folder / "losses.csv").open("a", newline="", encoding="utf-8")
            # csv, because a name of a stage may hold a comma
            self._rows = csv.writer(self._file, lineterminator="\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._write:
            # closing flushes; a second error from a full disk must not hide the first
            with suppress(OSError) if error else _translated(self._folder):
                self._file.close()
                self._curves.close()

    def step(self, record: StepRecord) -> None:
        """Logs a step."""
        if not self._write:
            return
        losses = record.losses
        parts = {"loss": losses.total, "nce": losses.nce, "rec": losses.rec}
        present = {name: value for name, value in parts.items() if value is not None}
        per_second = record.samples / record.seconds
        curves = {f"loss/{name}": value for name, value in present.items()}
        curves |= {
            "rate": record.rate,
            "gradient norm": record.norm,
            "samples per second": per_second,
        }
        columns = ["" if value is None else f"{value:.6f}" for value in parts.values()]
        with _translated(self._folder):
            self._rows.writerow(
                [
                    record.step,
                    record.stage,
                    *columns,
                    f"{record.rate:.3e}",
                    f"{record.norm:.4f}",
                    record.samples,
                    f"{record.seconds:.3f}",
                ]
            )
            for name, value in curves.items():
                self._curves.add_scalar(name, value, record.step)
        shown = " ".join(f"{name} {value:.3f}" for name, value in present.items())
        # update comes last: in a log file it prints a line of what the other two have set
        self._bar.set_description(record.stage)
        self._bar.set_postfix_str(f"{shown} rate {record.rate:.1e} {per_second:.0f} samples/s")
        self._bar.update()

    def dropped(self, rows: Iterable[Dropped], *, report: bool = True) -> None:
        """Records rows that were left out, each once.

        Args:
            rows: the rows.
            report: whether to report the first of a data set on the screen.
        """
        lines = []
        for row in rows:
            # a row is drawn again in every epoch
            key = _key(row)
            if key in self._dropped:
                continue
            # one line per data set, not thousands if a whole folder of pictures is missing
            if report and row.data_set not in self._reported and self._write:
                logger.warning(
                    "%s, %s: left out: %s; the others are listed in %s",
                    printable(row.data_set),
                    printable(row.place or f"row {row.number}"),
                    printable(row.reason),
                    self._folder / "skipped.jsonl",
                )
                self._reported.add(row.data_set)
            self._dropped[key] = row
            # escaped: half an emoji in a path has no UTF-8
            lines.append(json.dumps(asdict(row)) + "\n")
        # opened for each write: most runs drop no row, and their folder then has no such file
        if self._write and lines:
            with (
                _translated(self._folder),
                (self._folder / "skipped.jsonl").open("a", encoding="utf-8") as file,
            ):
                file.writelines(lines)

    def flush(self) -> None:
        """Writes the log to the disk, so that it is never behind the newest state."""
        if self._write:
            with _translated(self._folder):
                self._file.flush()
                os.fsync(self._file.fileno())

    def left_out(self) -> dict[str, int]:
        """Returns how many rows of each data set were drawn and left out, if any were."""
        rows = (row for row in self._dropped.values() if row.number >= 0)
        return dict(Counter(row.data_set for row in rows))


def _key(row: Dropped) -> tuple[str, int, str, str]:
    return row.data_set, row.number, row.reason, row.place


def read_dropped(path: Path) -> list[Dropped]:
    """Reads a `skipped.jsonl`; returns [] if there is no such file.

    A line that is not a valid row, such as one cut off by a kill, is removed from the file.

    Raises:
        StorageError: the file cannot be read, or is not a regular file.
    """
    if not path.exists():
        return []
    rows: list[Dropped] = []
    lines = _read_text(path).split("\n")
    for line in lines:
        with suppress(ValueError, TypeError):
            row = Dropped(**parse_json(line))
            if isinstance(row.number, int) and all(
                isinstance(text, str) for text in (row.data_set, row.reason, row.place)
            ):
                rows.append(row)
    # a last line without an end would be joined with the next one
    if len(rows) != len(lines) - 1:
        atomic_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return rows


def read_losses(path: Path) -> Iterator[dict[str, str]]:
    """Yields the rows of a `losses.csv`, by column."""
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _read_text(path: Path) -> str:
    """Returns the text of a log; raises `StorageError` if it cannot be read."""
    try:
        # damage shows as a row that is none
        return read_regular(path, MAX_LOG_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read ({error.strerror}); move it away, or train in another folder"
        ) from None


def _cut_log(path: Path, steps: int) -> None:
    """Keeps the first `steps` steps of a `losses.csv`, and writes its header if it is not there.

    Rows that are damaged or stand there twice are removed; a warning names the steps that are then
    missing.
    """
    rows: dict[int, list[str]] = {}
    if path.exists():
        # a row of the form of this file has neither quotes nor line breaks but in the stage's name
        text = _read_text(path).replace("\0", "")
        with suppress(csv.Error):
            for row in csv.reader(io.StringIO(text, newline="")):
                if len(row) == len(COLUMNS) and _STEP.fullmatch(row[0]):
                    rows[int(row[0])] = row
    kept = [rows[step] for step in sorted(rows) if step <= steps]
    if len(kept) < steps:
        logger.warning(
            "%s: lacks %d of the first %d steps; it was damaged or changed",
            path,
            steps - len(kept),
            steps,
        )
    log = io.StringIO(newline="")
    csv.writer(log, lineterminator="\n").writerows([COLUMNS, *kept])
    atomic_text(path, log.getvalue())
