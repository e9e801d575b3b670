"""`lame-runtime bench`: measures latency and throughput of every graph."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lame_runtime.cli.grammar import (
    add_bundle,
    add_command,
    add_graph,
    add_loading,
    loading_options,
    whole,
)
from lame_runtime.errors import printable

EXAMPLE = """
lame-runtime bench bundle
lame-runtime bench bundle --graph fp32 --graph int8-cpu --threads 2 --rounds 15
"""


def add(commands: Any) -> None:
    """Adds the command `bench` to the program."""
    parser = add_command(
        commands, "bench", "measure latency and throughput of every graph", _bench, EXAMPLE
    )
    add_bundle(parser)
    # repeatable, because `nargs="+"` would also take a bundle that follows it
    add_graph(parser, several=True)
    parser.add_argument(
        "--batch-size", type=whole, default=32, help="inputs per run, for the throughput"
    )
    parser.add_argument(
        "--rounds", type=whole, default=7, help="rounds that medians are taken over"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_loading(parser)


def _bench(options: argparse.Namespace) -> int:
    # deferred, so that `--help` does not wait for NumPy and ONNX Runtime
    from lame_runtime.cli.benchmark import bench, table

    outcome = bench(
        options.bundle,
        options.graph,
        batch_size=options.batch_size,
        rounds=options.rounds,
        options=loading_options(options),
    )
    lines = map(printable, table(outcome).split("\n"))
    print(json.dumps(outcome, indent=2) if options.json else "\n".join(lines))
    return 0
