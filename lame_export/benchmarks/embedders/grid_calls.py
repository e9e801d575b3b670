"""Compares one call of the vision graph per picture with one call for all pictures.

    python lame_export/benchmarks/embedders/grid_calls.py runs/bench/bundle

Pictures of different grids take a call each. One call for all of them, packed or padded, could not
be faster than a call for as many pictures of one grid, which needs neither mask nor padding. So the
ratio of the two is the most that joining them could bring.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.backends.onnxruntime import open_session, run_session
from lame_runtime.cli.benchmark import alternate
from lame_runtime.contract.batch import PictureGroup
from lame_runtime.contract.rules import Contract
from lame_runtime.contract.tower import tower_tables

GRID_SIDES = (4, 8, 16, 32)
"""Patches along a side of the pictures."""
PICTURES = 8


def main() -> None:
    """Reads the command line and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--graphs", nargs="+", default=["fp32-cpu", "int8-cpu"])
    options = parser.parse_args()
    contract = Contract.load(options.bundle / "contract.json")
    print(f"| graph | patches | {PICTURES} calls of one, ms | one call of {PICTURES}, ms | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for graph in options.graphs:
        session = open_session(options.bundle / f"graphs/vision.{graph}.onnx", threads=2)
        for side in GRID_SIDES:
            print(f"| `{graph}` | {side * side} | {measure(session, side, contract)} |", flush=True)


def measure(session: Any, side: int, contract: Contract) -> str:
    """Returns milliseconds of both ways, and their ratio."""
    pixels = side * contract.images.patch_size
    shape = (PICTURES, 1, pixels, pixels, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tables = tower_tables((side, side), contract)
    group = PictureGroup(frames, contract.images, tables, (side, side), merged=0)
    whole = group.vision_feeds()
    single = [group.rows(slice(row, row + 1)).vision_feeds() for row in range(PICTURES)]
    seconds = alternate(
        {
            "each": lambda: [run_session(session, feeds) for feeds in single],
            "all": lambda: run_session(session, whole),
        },
        9,
    )
    rounds = zip(seconds["each"], seconds["all"], strict=True)
    ratios = [separate / joint for separate, joint in rounds]
    cells = [f"{1000 * statistics.median(seconds[name]):.1f}" for name in ("each", "all")]
    return f"{' | '.join(cells)} | {statistics.median(ratios):.2f}"


if __name__ == "__main__":
    main()
