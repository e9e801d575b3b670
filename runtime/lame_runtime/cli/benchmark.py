"""Measures latency and throughput of a bundle's graphs.

Graphs take turns within each round, and the median over all rounds is reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from lame_runtime.arguments import folder_path, integer, name_list
from lame_runtime.backends.select import graphs_for
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.golden import EXTREMES, read_golden
from lame_runtime.contract.prompts import Input
from lame_runtime.encoder import Encoder
from lame_runtime.loading import load
from lame_runtime.options import MAX_BATCH, LoadOptions

MAX_ROUNDS = 10_000
SINGLE_INPUTS = 16
"""Number of golden inputs that are embedded one at a time; a slow graph still finishes soon."""


def bench(
    folder: Path,
    graphs: list[str] | None = None,
    *,
    batch_size: int = 32,
    rounds: int = 7,
    options: LoadOptions | None = None,
) -> dict[str, Any]:
    """Measures graphs on the golden inputs; all graphs take turns in each round.

    Args:
        folder: the bundle.
        graphs: the graphs to measure; None takes all that the backend can run.
        batch_size: inputs per run when throughput is measured.
        rounds: number of rounds; each figure is their median.
        options: how graphs are loaded; its `graph` is not used.

    Returns:
        `graphs` contains for each graph `backend`, `load_ms` (measured once), `single_ms` (one
        input alone, preprocessing included) and `batch_ms` (per input, in batches of `batch_size`).

    Raises:
        BundleError, BackendError, UsageError: as in `Encoder.load`.
    """
    # checked before graphs are loaded, which takes seconds
    folder, graphs = folder_path("folder", folder), name_list("graphs", graphs)
    batch_size = integer("batch_size", batch_size, 1, MAX_BATCH)
    rounds = integer("rounds", rounds, 1, MAX_ROUNDS)
    options = options or LoadOptions()
    bundle = Bundle.open(folder)
    golden = read_golden(folder)
    # inputs at the contract's limits are not representative of typical ones
    items = [entry.item for entry in golden.inputs if entry.modality not in EXTREMES]
    figures: dict[str, dict[str, Any]] = {}
    encoders: dict[str, Encoder] = {}
    # all graphs stay loaded, so that they can take turns
    with ExitStack() as stack:
        for graph in graphs or graphs_for(bundle, options):
            start = time.perf_counter()
            encoder = load(folder, replace(options, graph=graph), Encoder)
            milliseconds = 1000 * (time.perf_counter() - start)
            encoders[graph] = stack.enter_context(encoder)
            figures[graph] = {"load_ms": milliseconds, "backend": encoder.backend.name}
        few = items[:SINGLE_INPUTS]
        single = alternate({g: _caller(e, few, 1) for g, e in encoders.items()}, rounds)
        batched = alternate({g: _caller(e, items, batch_size) for g, e in encoders.items()}, rounds)
    for graph in encoders:
        figures[graph]["single_ms"] = 1000 * statistics.median(single[graph]) / len(few)
        figures[graph]["batch_ms"] = 1000 * statistics.median(batched[graph]) / len(items)
    return {"batch_size": batch_size, "rounds": rounds, "inputs": len(items), "graphs": figures}


def alternate(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each side in each round; sides take turns, after one warm-up each.

    Because of the turns, other load on the machine affects all sides alike.
    """
    # the first run allocates memory and selects kernels
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def table(report: dict[str, Any]) -> str:
    """Returns the result of `bench` as aligned text."""
    lines = [f"{'graph':10} {'load ms':>9} {'alone ms':>9} {'batched ms':>11}  backend"]
    lines += [
        f"{graph:10} {row['load_ms']:9.1f} {row['single_ms']:9.2f} {row['batch_ms']:11.2f}"
        f"  {row['backend']}"
        for graph, row in report["graphs"].items()
    ]
    lines.append(
        f"medians of {report['rounds']} rounds; per input, preprocessing included; "
        f"batches of {report['batch_size']}"
    )
    return "\n".join(lines)


def _caller(encoder: Encoder, items: list[Input], batch_size: int) -> Callable[[], object]:
    return lambda: encoder.encode(items, batch_size=batch_size)
