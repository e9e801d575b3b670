"""`lame-runtime bench`: latency and throughput of a bundle's graphs, alternating, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lame_runtime.bundle import Bundle
from lame_runtime.contract.prompts import Input
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError
from lame_runtime.golden import EXTREMES, read_golden
from lame_runtime.opening import BackendName, graphs_for


def bench(
    folder: Path,
    graphs: list[str] | None = None,
    backend: BackendName = "auto",
    threads: int | None = None,
    batch_size: int = 32,
    rounds: int = 7,
    *,
    trust_plans: bool = False,
    engines: Path | None = None,
) -> dict[str, Any]:
    """Times every graph on the golden inputs, all graphs in turn in each round.

    Args:
        folder: the bundle.
        graphs: which graphs; None takes all.
        backend: as in `Encoder.load`.
        threads: as in `Encoder.load`.
        batch_size: for the throughput figure.
        rounds: each figure is the median of so many.
        trust_plans: as in `Encoder.load`.
        engines: as in `Encoder.load`.

    Returns:
        Per graph: `load_ms` (once), `single_ms` (one input alone, preprocessing included) and `batch_ms`
        (per input, in batches of `batch_size`), and the backend.

    Raises:
        BundleError, BackendError: as in `Encoder.load`.
    """
    if batch_size < 1 or rounds < 1:
        raise InputError(f"batch size {batch_size} and {rounds} rounds: use 1 or more of each")
    bundle = Bundle.open(folder)
    golden = read_golden(folder)
    items = [each.item for each in golden.inputs if each.modality not in EXTREMES]
    figures: dict[str, dict[str, Any]] = {}
    encoders = {}
    for graph in graphs or graphs_for(bundle, backend, engines):
        began = time.perf_counter()
        encoders[graph] = Encoder.load(folder, backend=backend, graph=graph, threads=threads, trust_plans=trust_plans, engines=engines)
        figures[graph] = {"load_ms": 1000 * (time.perf_counter() - began), "backend": encoders[graph].backend.name}
    single = alternate({g: _caller(e, items[:16], 1) for g, e in encoders.items()}, rounds)
    batched = alternate({g: _caller(e, items, batch_size) for g, e in encoders.items()}, rounds)
    for graph, encoder in encoders.items():
        figures[graph]["single_ms"] = 1000 * statistics.median(single[graph]) / len(items[:16])
        figures[graph]["batch_ms"] = 1000 * statistics.median(batched[graph]) / len(items)
        encoder.close()
    return {"batch_size": batch_size, "rounds": rounds, "inputs": len(items), "graphs": figures}


def alternate(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, sides in turn, after one warm-up each."""
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def _caller(encoder: Encoder, items: list[Input], batch_size: int) -> Callable[[], object]:
    return lambda: encoder.encode(items, batch_size=batch_size)


def table(report: dict[str, Any]) -> str:
    """The report as aligned text."""
    lines = [f"{'graph':10} {'load ms':>9} {'alone ms':>9} {'batched ms':>11}  backend"]
    for graph, row in report["graphs"].items():
        lines.append(f"{graph:10} {row['load_ms']:9.1f} {row['single_ms']:9.2f} {row['batch_ms']:11.2f}  {row['backend']}")
    lines.append(f"medians of {report['rounds']} rounds; per input, preprocessing included; batches of {report['batch_size']}")
    return "\n".join(lines)
