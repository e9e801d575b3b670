"""Results of a run: as JSON, as tables for the terminal and for Markdown, and as a plot.

The JSON file holds everything. It is written after every cell, and a run that was stopped continues
from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lame_runtime.errors import StorageError, UsageError, shown
from lame_runtime.files.atomic import atomic_text
from lame_runtime.files.json_file import read_json
from rich.console import Console
from rich.table import Table

from lame_training.studies.paradigms.baselines import LaME
from lame_training.studies.paradigms.goals import describe_ratios, describe_token_cost, goals
from lame_training.studies.paradigms.measure import NAMES, SHORTEST_DRAW, Cell, Timing
from lame_training.studies.paradigms.plot import draw

FILE = "paradigms.json"
"""Name of the file that holds a report."""
ABSENT = "out of memory"
"""Text in place of figures that were not measured; also the value of "failed" in the JSON."""
LEFT_ALIGNED = ("paradigm", "goal", "")
"""Columns of words; those of numbers are aligned on the right."""


class ReportTable(NamedTuple):
    """A table as text, for terminal and Markdown alike."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Report:
    """The measurements of a run, and what they were measured on."""

    settings: dict[str, Any]
    """Model, machine and protocol, which all cells share; see `benchmark`."""
    cells: tuple[Cell, ...] = ()
    """Ordered by batch size, then by length."""

    def with_cell(self, cell: Cell) -> Report:
        """Returns the report with one more cell."""
        cells = sorted((*self.cells, cell), key=lambda cell: (cell.batch_size, cell.length))
        return replace(self, cells=tuple(cells))

    def as_json(self) -> str:
        """Returns the content of `paradigms.json`: settings, cells and goals.

        Medians and ratios stand beside the draws that they come from. They are for other readers:
        `resume_report` computes them again.
        """
        report = {
            "settings": self.settings,
            "cells": [_cell_json(cell) for cell in self.cells],
            "goals": [
                {**asdict(goal), "met": goal.met}
                for goal in goals(self.cells, self.settings["n_reason"])
            ],
        }
        return json.dumps(report, indent=2) + "\n"

    def tables(self) -> list[ReportTable]:
        """Returns a table of the measurements and one of the goals."""
        return [self._measurements(), self._goals()]

    def _measurements(self) -> ReportTable:
        columns = ["batch", "L", "paradigm", "ms per sample", "samples/s", "peak MiB"]
        rows = []
        for cell in self.cells:
            for name, timing in cell.timings.items():
                memory = "–" if timing.memory_mib is None else f"{timing.memory_mib:,.1f}"
                # without draws there is no median to take; the peak may still be known
                speed, ratio = [ABSENT, "–"], None
                if timing.draws_ms:
                    speed = [_three_digits(timing.ms), _three_digits(1000 / timing.ms)]
                    ratio = cell.ratio(name, LaME.name)
                times_lame = "–" if ratio is None else f"{ratio:.2f}"
                sizes = [str(cell.batch_size), f"{cell.length:,}"]
                rows.append([*sizes, name, *speed, memory, times_lame])
        return ReportTable("Paradigms", [*columns, "× LaME's time"], rows)

    def _goals(self) -> ReportTable:
        rows = []
        for goal in goals(self.cells, self.settings["n_reason"]):
            figure = ABSENT if goal.figure is None else f"{goal.figure:.3g}"
            met = "met" if goal.met else "not met"
            sizes = [str(goal.batch_size), f"{goal.length:,}"]
            rows.append([*sizes, goal.what, figure, f"≥ {goal.bound:.3g}", met])
        return ReportTable("Goals", ["batch", "L", "goal", "measured", "bound", ""], rows)

    def notes(self) -> list[str]:
        """Returns the sentences that a reader of the tables needs."""
        # a short name, because it stands in nearly every expression below
        s = self.settings
        on_gpu = s["device"] == "cuda"
        blocks = "compiled blocks" if s["compiled"] else "eager blocks"
        graphs = "CUDA graphs" if on_gpu else "no graphs"
        memory_source = "the device's allocator" if on_gpu else "growth of resident memory"
        parameters = s["parameters"]
        return [
            f"{s['machine']}; CPU threads: {s['threads']}; torch {s['torch']}; {s['date']}; "
            f"lame-training {s['version']}, commit {s['commit'] or 'unknown'}.",
            f"{s['backbone']}: {parameters['language_model'] / 1e6:,.1f} M parameters in the "
            f"language model, {parameters['vision'] / 1e6:,.1f} M in the vision tower, "
            f"{s['dtype']}; the LM head is {s['head_share']:.0%} of the "
            f"weights a decode step reads ({s['head_share_2b']:.0%} in Qwen2-VL-2B).",
            f"{s['modality']}, K = {s['n_reason']}, {s['latent_steps']} latent steps, "
            f"{s['tokens']} tokens; {blocks}, {graphs}. "
            f"Inputs a draw: {s['inputs']} (whole batches, repeated until {SHORTEST_DRAW:.0f} s "
            f"have passed); warm-up batches: {s['warmup']}; medians of {s['draws']} draws, in each "
            "of which the paradigms take turns; ratios are medians of the ratios inside a draw.",
            f"Peak MiB is beyond weights and inputs, KV cache included ({memory_source}).",
            *describe_ratios(self.cells),
            *describe_token_cost(self.cells, s["tokens"], s["n_reason"]),
        ]

    def markdown(self) -> str:
        """Returns the content of `paradigms.md`: notes, then tables."""
        parts = ["\n".join(f"- {note}" for note in self.notes())]
        for table in self.tables():
            lines = [table.columns, ["---"] * len(table.columns), *table.rows]
            body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            parts.append(f"### {table.title}\n\n{body}")
        return "\n\n".join(parts) + "\n"

    def print(self, console: Console) -> None:
        """Prints tables and notes on a terminal, with a rule between cells."""
        for title, columns, rows in self.tables():
            table = Table(title=title)
            for column in columns:
                justify: Literal["left", "right"] = "left" if column in LEFT_ALIGNED else "right"
                table.add_column(column, justify=justify, no_wrap=True)
            for row, next_row in zip(rows, [*rows[1:], None], strict=True):
                # batch size and length name the cell
                is_last = next_row is None or row[:2] != next_row[:2]
                table.add_row(*row, end_section=is_last)
            console.print(table)
        for note in self.notes():
            # rich would color the numbers
            console.print(f"- {note}", highlight=False)

    def write(self, folder: Path) -> None:
        """Writes `paradigms.json`, `paradigms.md` and `paradigms.png`, each whole or not at all.

        Raises:
            StorageError: a file cannot be written.
        """
        # the data first: the other files can be made from it again
        self.save(folder)
        atomic_text(folder / "paradigms.md", self.markdown())
        s = self.settings
        subject = f"{s['backbone']}, {s['dtype']}, {s['machine']}"
        draw(self.cells, folder / "paradigms.png", subject)

    def save(self, folder: Path) -> None:
        """Writes `paradigms.json` alone, which is cheap enough for after each cell.

        Raises:
            StorageError: the file cannot be written.
        """
        atomic_text(folder / FILE, self.as_json())


def resume_report(folder: Path, settings: dict[str, Any]) -> Report:
    """Reads the report in `folder` for a run that completes it.

    Args:
        folder: the folder that holds `paradigms.json`.
        settings: those of the run; all but the date must be those of the report.

    Raises:
        StorageError: there is no report, or it cannot be read.
        UsageError: it has other settings.
    """
    path = folder / FILE
    try:
        content = read_json(path)
        cells = tuple(_cell_from_json(cell) for cell in content["cells"])
        previous = dict(content["settings"])
        if not isinstance(previous["date"], str):
            raise TypeError("the date is no text")
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read ({error.strerror}); leave `resume` out to begin"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{path}: is no report of this command ({type(error).__name__}); "
            "choose another `output`"
        ) from None
    for name, value in settings.items():
        # figures of different machines or protocols must not stand in one table
        if name != "date" and previous.get(name) != value:
            raise UsageError(
                f"{path}: was measured with {name} {shown(repr(previous.get(name)))}, "
                f"not {value!r}; choose another `output`"
            )
    # the date on which the run began
    return Report({**settings, "date": previous["date"]}, cells)


def _cell_json(cell: Cell) -> dict[str, Any]:
    """Returns a cell as the JSON file holds it."""
    timings: dict[str, Any] = {}
    for name, timing in cell.timings.items():
        timings[name] = {"draws_ms": list(timing.draws_ms), "memory_mib": timing.memory_mib}
        if timing.draws_ms:
            timings[name] |= {
                "ms_per_sample": timing.ms,
                "samples_per_second": 1000 / timing.ms,
                "times_lame": cell.ratio(name, LaME.name),
            }
        else:
            timings[name]["failed"] = ABSENT
    return {"batch_size": cell.batch_size, "length": cell.length, "timings": timings}


def _cell_from_json(content: dict[str, Any]) -> Cell:
    """Reads what `_cell_json` wrote; raises `KeyError` or `TypeError` if it is something else."""
    timings = {}
    # medians and ratios in the file are left alone: they follow from the draws
    for name in NAMES:
        timing = content["timings"][name]
        draws, memory = tuple(timing["draws_ms"]), timing["memory_mib"]
        if not all(_is_number(value) for value in (*draws, *(() if memory is None else (memory,)))):
            raise TypeError("a timing is no number")
        timings[name] = Timing(draws, memory)
    if not all(isinstance(content[name], int) for name in ("batch_size", "length")):
        raise TypeError("a size is no number")
    return Cell(content["batch_size"], content["length"], timings)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _three_digits(value: float) -> str:
    """Formats a number with three significant digits and no exponent.

    >>> _three_digits(1234.5), _three_digits(12.345), _three_digits(0.12345)
    ('1,234', '12.3', '0.123')
    """
    # {:.3g} would write 1.23e+03
    decimals = 3 - sum(value >= bound for bound in (1, 10, 100))
    return f"{value:,.{decimals}f}"
