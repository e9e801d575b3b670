"""A run's results as data, as tables for the terminal and for Markdown, and as one plot.

The JSON file is the whole of it: it is written after every cell, and a run that was stopped continues from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lame_runtime.atomic import atomic_text
from lame_runtime.errors import InputError
from rich.console import Console
from rich.table import Table

from lame_training.paradigms.baselines import LaME
from lame_training.paradigms.goals import dependence, goals, reason
from lame_training.paradigms.measure import NAMES, SHORTEST_DRAW, Cell, Timing
from lame_training.paradigms.plot import draw

FILE = "paradigms.json"
ABSENT = "out of memory"


@dataclass(frozen=True)
class Report:
    """What was measured, and on what."""

    settings: dict[str, Any]
    """Model, machine and protocol; cells of one file share them."""
    cells: tuple[Cell, ...] = ()

    def with_cell(self, cell: Cell) -> Report:
        """The report and one cell more, in the order of batch sizes and lengths."""
        return replace(self, cells=tuple(sorted((*self.cells, cell), key=lambda each: (each.batch_size, each.length))))

    def as_json(self) -> str:
        """All of it, with medians, ratios and goals beside what they come from."""
        judged = [{**asdict(goal), "met": goal.met} for goal in goals(self.cells, self.settings["n_reason"])]
        return json.dumps({"settings": self.settings, "cells": [_plain(cell) for cell in self.cells], "goals": judged}, indent=2) + "\n"

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, columns and rows of the measurements and of the goals."""
        measured = []
        for cell in self.cells:
            for name, timing in cell.timings.items():
                place = [str(cell.batch_size), f"{cell.length:,}", name]
                memory = "–" if timing.memory_mib is None else f"{timing.memory_mib:,.1f}"
                if not timing.draws_ms:
                    measured.append([*place, ABSENT, "–", memory, "–"])
                    continue
                ratio = cell.ratio(name, LaME.name)
                measured.append([*place, _three(timing.ms), _three(1000 / timing.ms), memory, "–" if ratio is None else f"{ratio:.2f}"])
        judged = [
            [str(goal.batch_size), f"{goal.length:,}", goal.what, ABSENT if goal.figure is None else f"{goal.figure:.3g}",
             f"≥ {goal.bound:.3g}", "met" if goal.met else "not met"]
            for goal in goals(self.cells, self.settings["n_reason"])
        ]  # fmt: skip
        return [
            ("Paradigms", ["batch", "L", "paradigm", "ms per sample", "samples/s", "peak MiB", "× LaME's time"], measured),
            ("Goals", ["batch", "L", "goal", "measured", "bound", ""], judged),
        ]

    def notes(self) -> list[str]:
        """What a reader must know to read the tables."""
        s = self.settings
        compiled = "compiled blocks" if s["compiled"] else "eager blocks"
        graphs = "CUDA graphs" if s["device"] == "cuda" else "no graphs"
        source = "the device's allocator" if s["device"] == "cuda" else "growth of resident memory"
        return [
            f"{s['machine']}; CPU threads: {s['threads']}; torch {s['torch']}; {s['date']}; "
            f"lame-training {s['version']}, commit {s['commit'] or 'unknown'}.",
            f"{s['backbone']}: {s['parameters']['language_model'] / 1e6:,.1f} M parameters in the language model, "
            f"{s['parameters']['vision'] / 1e6:,.1f} M in the vision tower, {s['dtype']}; the LM head is {s['head_share']:.0%} of the "
            f"weights a decode step reads ({s['head_share_2b']:.0%} in Qwen2-VL-2B).",
            f"{s['modality']}, K = {s['n_reason']}, {s['latent_steps']} latent steps, {s['tokens']} tokens; {compiled}, {graphs}. "
            f"Inputs a draw: {s['inputs']} (whole batches, repeated until {SHORTEST_DRAW:.0f} s have passed); "
            f"warm-up batches: {s['warmup']}; medians of {s['draws']} draws, in each of which the paradigms take turns; "
            "ratios are medians of the ratios inside a draw.",
            f"Peak MiB is beyond weights and inputs, KV cache included ({source}).",
            *dependence(self.cells),
            *reason(self.cells, s["tokens"], s["n_reason"]),
        ]

    def markdown(self) -> str:
        """Notes and tables."""
        parts = ["\n".join(f"- {note}" for note in self.notes())]
        for title, columns, rows in self.tables():
            lines = [columns, ["---"] * len(columns), *rows]
            parts.append(f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
        return "\n\n".join(parts) + "\n"

    def print(self, console: Console) -> None:
        """The tables and notes on a terminal; a rule between cells."""
        for title, columns, rows in self.tables():
            table = Table(title=title)
            for column in columns:
                table.add_column(column, justify="left" if column in ("paradigm", "goal", "") else "right", no_wrap=True)
            for row, behind in zip(rows, [*rows[1:], None], strict=True):
                table.add_row(*row, end_section=behind is None or row[:2] != behind[:2])
            console.print(table)
        for note in self.notes():
            console.print(f"- {note}", highlight=False)

    def write(self, folder: Path) -> None:
        """Everything: `paradigms.json`, `paradigms.md`, `paradigms.png`, whole or not at all each."""
        self.save(folder)
        atomic_text(folder / "paradigms.md", self.markdown())
        draw(self.cells, folder / "paradigms.png", f"{self.settings['backbone']}, {self.settings['dtype']}, {self.settings['machine']}")

    def save(self, folder: Path) -> None:
        """The data alone; cheap enough for after each cell."""
        atomic_text(folder / FILE, self.as_json())


def continued(folder: Path, settings: dict[str, Any]) -> Report:
    """The report in `folder`, to be completed.

    Raises:
        InputError: none there, unreadable, or of other settings (the date may differ).
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        cells = tuple(
            Cell(
                cell["batch_size"],
                cell["length"],
                {name: Timing(tuple(cell["timings"][name]["draws_ms"]), cell["timings"][name]["memory_mib"]) for name in NAMES},
            )
            for cell in found["cells"]
        )
        before = dict(found["settings"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); leave --resume out to begin") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no report of this command ({type(error).__name__}); choose another folder") from None
    for name, value in settings.items():
        if name != "date" and before.get(name) != value:
            raise InputError(f"{path}: was measured with {name} {before.get(name)!r}, not {value!r}; choose another folder for --out")
    return Report({**settings, "date": before["date"]}, cells)


def _plain(cell: Cell) -> dict[str, Any]:
    timings: dict[str, Any] = {}
    for name, timing in cell.timings.items():
        timings[name] = {"draws_ms": list(timing.draws_ms), "memory_mib": timing.memory_mib}
        if timing.draws_ms:
            ratio = cell.ratio(name, LaME.name)
            timings[name] |= {"ms_per_sample": timing.ms, "samples_per_second": 1000 / timing.ms, "times_lame": ratio}
        else:
            timings[name]["failed"] = ABSENT
    return {"batch_size": cell.batch_size, "length": cell.length, "timings": timings}


def _three(value: float) -> str:
    """Three significant digits, no exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"
