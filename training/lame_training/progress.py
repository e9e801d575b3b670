"""What a run says while it trains: a bar, one row per step in losses.csv, curves for TensorBoard, and rows left out."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from lame_runtime.atomic import atomic_text
from lame_runtime.errors import InputError
from tqdm import tqdm

from lame_training.collate import Dropped
from lame_training.gradient import Losses

COLUMNS = ("step", "stage", "loss", "nce", "rec", "rate", "norm", "samples", "seconds")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A disk that is full as one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: its log cannot be written ({error.strerror or error}); free some space and --resume") from None


class Progress:
    """Writes the log of a run from step `done` on; used as a context. Its methods raise `InputError` where the disk refuses.

    Args:
        folder: the run's.
        done: steps that an earlier process trained; later rows of its log are forgotten.
        last: the step at which this process stops.
        show: draw the bar.
        write: write files; only one of several processes does.
    """

    def __init__(self, folder: Path, done: int, last: int, *, show: bool, write: bool) -> None:
        self._folder, self._done, self._write = folder, done, write
        self._bar = tqdm(total=last, initial=done, unit="step", disable=not (show and write), dynamic_ncols=True)
        self._dropped: dict[tuple[str, int, str], Dropped] = {}
        self._named: set[str] = set()
        """Data sets of which a row was named on the screen."""
        if write:
            _cut_log(folder / "losses.csv", done)
            for each in read_dropped(folder / "skipped.jsonl"):
                self._dropped[each.data_set, each.number, each.reason] = each
                self._named.add(each.data_set)

    def __enter__(self) -> Progress:
        if self._write:
            with _writing(self._folder):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of tensorboard's own dependencies
                    from torch.utils.tensorboard import SummaryWriter

                    self._curves = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._done + 1)
                self._file = (self._folder / "losses.csv").open("a", newline="", encoding="utf-8")
            self._rows = csv.writer(self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
        if self._write:
            with suppress(OSError) if error else _writing(self._folder):
                self._file.close()
                self._curves.close()

    def step(self, number: int, stage: str, losses: Losses, *, rate: float, norm: float, samples: int, seconds: float) -> None:
        """Logs a step (1-based): its losses, peak learning rate, gradient norm before clipping, rows of all processes and time."""
        if not self._write:
            return
        parts = {"loss": losses.total, "nce": losses.nce, "rec": losses.rec}
        texts = ["" if value is None else f"{value:.6f}" for value in parts.values()]
        shown = [f"{name} {value:.3f}" for name, value in parts.items() if value is not None]
        curves = {f"loss/{name}": value for name, value in parts.items() if value is not None}
        curves |= {"rate": rate, "gradient norm": norm, "samples per second": samples / seconds}
        with _writing(self._folder):
            self._rows.writerow([number, stage, *texts, f"{rate:.3e}", f"{norm:.4f}", samples, f"{seconds:.3f}"])
            for name, value in curves.items():
                self._curves.add_scalar(name, value, number)
        self._bar.set_description(stage)
        self._bar.set_postfix_str(f"{' '.join(shown)} rate {rate:.1e} {samples / seconds:.0f} samples/s")
        self._bar.update()

    def dropped(self, rows: Iterable[Dropped]) -> None:
        """Notes rows that were left out; each is named once, the first of a data set on the screen."""
        fresh = []
        for row in rows:
            key = row.data_set, row.number, row.reason
            if key in self._dropped:
                continue
            if row.data_set not in self._named and self._write:
                tqdm.write(f"{row.data_set}, row {row.number}: left out: {row.reason}; further ones go to {self._folder / 'skipped.jsonl'}")
            self._named.add(row.data_set)
            self._dropped[key] = row
            fresh.append(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        if self._write and fresh:
            with _writing(self._folder), (self._folder / "skipped.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(fresh)

    def flush(self) -> None:
        """Hands the log to the operating system, so that it is not behind a state that is saved next."""
        if self._write:
            with _writing(self._folder):
                self._file.flush()

    def summary(self) -> str:
        """How many rows were left out of which data sets, or nothing."""
        counts = Counter(each.data_set for each in self._dropped.values())
        return ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))


def read_dropped(path: Path) -> list[Dropped]:
    """Rows of a skipped.jsonl; none where there is no such file. What follows the last whole line, a kill left behind."""
    if not path.is_file():
        return []
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if rest:
        atomic_text(path, "".join(f"{line}\n" for line in lines))
    return [Dropped(**json.loads(line)) for line in lines]


def read_losses(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a losses.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _cut_log(path: Path, steps: int) -> None:
    """Keeps the header and the rows of the first `steps` steps of losses.csv; makes the file where there is none."""
    kept = [",".join(COLUMNS)]
    if path.is_file():
        kept += [line for line in path.read_text(encoding="utf-8").splitlines()[1:] if _step_of(line) in range(1, steps + 1)]
    atomic_text(path, "\n".join(kept) + "\n")


def _step_of(line: str) -> int:
    first = line.split(",", 1)[0]
    return int(first) if first.isdigit() else 0
