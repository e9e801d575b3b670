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
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from lame_runtime.errors import StorageError
from lame_runtime.files.atomic import atomic_text
from lame_runtime.progress import progress_bar

from lame_training.data.step_batch import Dropped
from lame_training.objective.gradcache import Losses

logger = logging.getLogger(__name__)

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
        self._dropped: dict[tuple[str, int, str], Dropped] = {}
        self._reported: set[str] = set()
        """Data sets of which a left-out row has been reported on the screen."""
        if write:
            # a run that was killed may have logged steps that its last state does not have
            _cut_log(folder / "losses.csv", first)
            for row in read_dropped(folder / "skipped.jsonl"):
                self._dropped[row.data_set, row.number, row.reason] = row
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
            self._rows = csv.writer(self._file)
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

    def dropped(self, rows: Iterable[Dropped]) -> None:
        """Records rows that were left out, each once; the first of a data set is reported."""
        lines = []
        for row in rows:
            # a row is drawn again in every epoch
            key = row.data_set, row.number, row.reason
            if key in self._dropped:
                continue
            # one line per data set, not thousands if a whole folder of pictures is missing
            if row.data_set not in self._reported and self._write:
                logger.warning(
                    "%s, row %d: left out: %s; further ones go to %s",
                    row.data_set,
                    row.number,
                    row.reason,
                    self._folder / "skipped.jsonl",
                )
            self._reported.add(row.data_set)
            self._dropped[key] = row
            lines.append(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        # opened for each write: most runs drop no row, and their folder then has no such file
        if self._write and lines:
            with (
                _translated(self._folder),
                (self._folder / "skipped.jsonl").open("a", encoding="utf-8") as file,
            ):
                file.writelines(lines)

    def flush(self) -> None:
        """Hands the log to the operating system, so that it is never behind the newest state."""
        if self._write:
            with _translated(self._folder):
                self._file.flush()

    def left_out(self) -> dict[str, int]:
        """Returns how many rows were left out of each data set that lost any."""
        return dict(Counter(row.data_set for row in self._dropped.values()))


def read_dropped(path: Path) -> list[Dropped]:
    """Reads a `skipped.jsonl`; returns [] if there is no such file.

    A line without an end is a write that a kill interrupted, and is removed from the file.
    """
    if not path.is_file():
        return []
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if rest:
        atomic_text(path, "".join(f"{line}\n" for line in lines))
    return [Dropped(**json.loads(line)) for line in lines]


def read_losses(path: Path) -> Iterator[dict[str, str]]:
    """Yields the rows of a `losses.csv`, by column."""
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _cut_log(path: Path, steps: int) -> None:
    """Keeps the first `steps` steps of a `losses.csv`, and writes its header if it is not there."""
    lines = [",".join(COLUMNS)]
    if path.is_file():
        lines += [
            line
            for line in path.read_text(encoding="utf-8").splitlines()[1:]
            if _step_of(line) in range(1, steps + 1)
        ]
    atomic_text(path, "\n".join(lines) + "\n")


def _step_of(line: str) -> int:
    """Returns the step of a line; 0 for a line that a kill interrupted."""
    first = line.split(",", 1)[0]
    return int(first) if first.isdigit() else 0
