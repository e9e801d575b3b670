"""Compares LaME with the other ways to run the same weights on a CPU: `make bench`.

    python lame_export/benchmarks/embedders/bench.py runs/bench

All sides embed the same inputs with one random Qwen3-VL of 115 M parameters. The table reports the
lowest cosine of each side's vectors to those of Hugging Face. Each side is a process of its own
with two threads; the sides take turns, and figures are medians over the rounds, as ratios to
Sentence Transformers. The folder gets the models (`bench_models`), `figures.json`, `table.md` and
`plot.png`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench_inputs import Workload, write_workloads
from bench_models import GRAPHS, write_models
from bench_process import SideProcess, time_to_first_vector
from bench_report import BASE, draw, table
from bench_sides import SIDES, installed_bytes, skip_reason

Figures = dict[str, Any]
REFERENCE = "Hugging Face"
"""The side that the vectors of all others are compared with."""


def measure(folder: Path, rounds: int, size: str, names: list[str]) -> Figures:
    """Runs all sides in turn.

    Args:
        folder: an empty folder, where models and inputs are written.
        rounds: measured rounds; one more goes before them.
        size: size of the model, from `bench_models.GRAPHS`.
        names: the sides.

    Returns:
        `skipped`: why a side does not run here, by side. `workloads`: for each of them and each
        side, seconds of every round and the least cosine to Hugging Face. `sides`: peak memory,
        seconds to the first vector of every start, and installed bytes.
    """
    skipped = {name: reason for name in names if (reason := skip_reason(name))}
    names = [name for name in names if name not in skipped]
    write_models(folder, size)
    workloads = write_workloads(folder, size)
    sides: dict[str, Figures] = {name: {"installed": installed_bytes(name)} for name in names}
    starts = [
        {name: time_to_first_vector(name, folder) for name in names} for _ in range(min(3, rounds))
    ]
    with ExitStack() as stack:
        running = {name: stack.enter_context(SideProcess(name, folder)) for name in names}
        measured = {work.name: _measure(work, running, rounds) for work in workloads}
        for name, process in running.items():
            sides[name] |= {
                "peak": process.ask("peak", "")["bytes"],
                "first": [start[name] for start in starts],
            }
    return {"skipped": skipped, "workloads": measured, "sides": sides}


def _measure(work: Workload, running: dict[str, SideProcess], rounds: int) -> Figures:
    # the first round allocates memory and selects kernels
    vectors = {
        name: process.ask("embed", work.name)["vectors"] for name, process in running.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, process in running.items():
            seconds[name].append(process.ask("time", work.name)["seconds"])
    reference = vectors[REFERENCE]
    return {
        "items": len(work.items),
        "sides": {
            name: {
                "seconds": seconds[name],
                "cosine": min(
                    sum(map(float.__mul__, ours, theirs))
                    for ours, theirs in zip(vectors[name], reference, strict=True)
                ),
                "median": statistics.median(seconds[name]),
            }
            for name in running
        },
    }


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for models and figures; it must not exist")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", choices=list(GRAPHS), default="115m")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE")
    options = parser.parse_args()
    # these two in any case: all figures are relative to them
    names = [name for name in SIDES if name in (BASE, REFERENCE, *options.sides)]
    options.folder.mkdir(parents=True)
    figures = measure(options.folder, options.rounds, options.size, names)
    (options.folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    text = table(figures)
    (options.folder / "table.md").write_text(text + "\n", encoding="utf-8")
    draw(figures, options.folder / "plot.png")
    print(text)


if __name__ == "__main__":
    main()
