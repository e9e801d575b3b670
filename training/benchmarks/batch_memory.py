"""Measures peak memory and time of a training step as the batch grows, with GradCache and without.

    python training/benchmarks/batch_memory.py [--batches 64 128 256 512 1024] [--chunk 32]

The model is that of the `digits` recipe, on its own data and one thread; a row is a query and a
positive. Every measurement has a process of its own. A Markdown table is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from lame_training.data import open_rows
from lame_training.data.collate import Collator
from lame_training.data.digits import TINY, Sizes, write_digits
from lame_training.data.step_batch import BatchRow
from lame_training.distributed.processes import ProcessGroup
from lame_training.objective.gradcache import ForwardContext
from lame_training.recipes.catalog import find_recipe
from lame_training.run.initialization import initialize_run
from lame_training.run.loop import train_step
from lame_training.studies.paradigms.peak_memory import PeakMemory

RECIPE = find_recipe("digits")
TASKS = ("sum2", "find2", "sum3", "find3")
"""Tasks that a step draws from in equal parts."""
HEADER = (
    "| rows | inputs | step's peak, GradCache, MiB | without, MiB "
    "| seconds, GradCache | without |\n"
    "| --- | --- | --- | --- | --- | --- |"
)


def measure(
    data: Path, out: Path, batch_size: int, chunk: int, gradcache: bool
) -> dict[str, float]:
    """Measures two steps.

    Args:
        data: root of the digits data set.
        out: folder for the run's files.
        batch_size: rows of a step.
        chunk: inputs per forward pass.
        gradcache: whether chunks are embedded twice.

    Returns:
        "peak" in MiB, beyond the model and the step's prepared pictures; "seconds" of the second
        step; "items", the number of distinct inputs.
    """
    # times then compare between machines with different numbers of cores
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPE, chunk=chunk, gradcache=gradcache, picture_cache_mib=0)
    stage = dataclasses.replace(recipe.stages[1], batch_size=batch_size)
    rows_by_task = {task.name: open_rows(data, task) for task in stage.tasks if task.name in TASKS}
    model, preparer = initialize_run(recipe, data, rows_by_task.values(), out, None, None)
    batch_rows = [
        BatchRow(name, number, rows[number])
        for name, rows in rows_by_task.items()
        for number in range(batch_size // len(rows_by_task))
    ]
    # laid out before memory is watched: its size does not depend on GradCache
    batch = Collator(preparer, 0, chunk, 0)(batch_rows, contrastive=True, reconstructing=True)
    optimizer = stage.prepare(model)
    context = ForwardContext(model, recipe, ProcessGroup("cpu"), 0)
    seconds = 0.0
    with PeakMemory(torch.device("cpu")) as memory:
        # the first step also allocates the optimizer's moments, so only the second is timed; the
        # peak is that of both
        for number in range(2):
            start = time.perf_counter()
            train_step(context, stage, batch, optimizer, number)
            seconds = time.perf_counter() - start
    assert memory.mib is not None
    return {"peak": memory.mib, "seconds": seconds, "items": len(batch.key_I)}


def measure_in_process(
    data: Path, out: Path, batch_size: int, chunk: int, gradcache: bool
) -> dict[str, float]:
    """Runs `measure` in a process of its own, whose memory no earlier measurement has touched."""
    one = [str(data), str(batch_size), str(gradcache), str(out)]
    command = [sys.executable, __file__, "--chunk", str(chunk), "--one", *one]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    # libraries may print before it
    result: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measures each batch size both ways and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--chunk", type=int, default=32)
    # how `measure_in_process` calls this file
    parser.add_argument(
        "--one", nargs=4, metavar=("DATA", "BATCH", "GRADCACHE", "OUT"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.one:
        data, batch_size, gradcache, out = options.one
        result = measure(Path(data), Path(out), int(batch_size), options.chunk, gradcache == "True")
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        data_root = Path(folder) / "data"
        # enough rows of two and three digits for the largest batch without repeating one
        sizes = Sizes({1: 300, 2: 1200, 3: 1200, 4: 60}, 1200)
        write_digits(data_root, {**TINY, "train": sizes})
        print(f"chunks of {options.chunk} inputs")
        print(HEADER)
        for batch_size in options.batches:
            cached, plain = (
                measure_in_process(
                    data_root,
                    Path(folder) / f"out-{batch_size}-{gradcache}",
                    batch_size,
                    options.chunk,
                    gradcache,
                )
                for gradcache in (True, False)
            )
            print(
                f"| {batch_size} | {cached['items']} | {cached['peak']:.0f} | {plain['peak']:.0f} "
                f"| {cached['seconds']:.1f} | {plain['seconds']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
