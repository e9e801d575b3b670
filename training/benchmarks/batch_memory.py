"""Peak memory and time of one training step as the batch grows, with GradCache and without, each in a process of its own.

    python training/benchmarks/batch_memory.py [--batches 64 128 256 512 1024] [--chunk 32]

The `digits` recipe's model on its own data, one thread; a row is a query and a positive. Prints a Markdown table.
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
from lame_training.collate import Collator, Row
from lame_training.data import open_rows
from lame_training.digits import TINY, Sizes, write_digits
from lame_training.gradient import Pass
from lame_training.loop import train_step
from lame_training.paradigms.memory import PeakMemory
from lame_training.recipes import find_recipe
from lame_training.start import start
from lame_training.world import World

RECIPE = find_recipe("digits")


def measure(data: Path, out: Path, batch: int, chunk: int, gradcache: bool) -> dict[str, float]:
    """MiB of two steps of `batch` rows beyond the model and their prepared pictures, and the second one's seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPE, chunk=chunk, gradcache=gradcache, picture_cache_mib=0)
    stage = dataclasses.replace(recipe.stages[1], batch_size=batch)
    tasks = [task for task in stage.tasks if task.name in ("sum2", "find2", "sum3", "find3")]
    rows = {task.name: open_rows(data, task) for task in tasks}
    model, preparer = start(recipe, data, rows.values(), out, None, None)
    each = batch // len(tasks)
    chosen = [Row(name, number, found[number]) for name, found in rows.items() for number in range(each)]
    step = Collator(preparer, 0, chunk, 0)(chosen, contrastive=True, reconstructing=True)
    optimizer = stage.prepare(model)
    through = Pass(model, recipe, World("cpu"), 0)
    seconds = 0.0
    with PeakMemory(torch.device("cpu")) as memory:
        for number in range(2):
            began = time.perf_counter()
            train_step(through, stage, step, optimizer, number)
            seconds = time.perf_counter() - began
    assert memory.mib is not None
    return {"peak": memory.mib, "seconds": seconds, "items": len(step.key_I)}


def main() -> None:
    """Measures each batch both ways and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--one", nargs=4, metavar=("DATA", "BATCH", "GRADCACHE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        data, batch, gradcache, out = options.one
        print(json.dumps(measure(Path(data), Path(out), int(batch), options.chunk, gradcache == "True")))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_digits(data, {**TINY, "train": Sizes({1: 300, 2: 1200, 3: 1200, 4: 60}, 1200)})
        print(f"chunks of {options.chunk} inputs")
        print("| rows | inputs | step's peak, GradCache, MiB | without, MiB | seconds, GradCache | without |")
        print("| --- | --- | --- | --- | --- | --- |")
        for batch in options.batches:
            found = []
            for gradcache in (True, False):
                out = Path(folder) / f"out-{batch}-{gradcache}"
                command = [
                    sys.executable,
                    __file__,
                    "--chunk",
                    str(options.chunk),
                    "--one",
                    str(data),
                    str(batch),
                    str(gradcache),
                    str(out),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
            cached, plain = found
            grown = [f"{each['peak']:.0f}" for each in found]
            print(
                f"| {batch} | {cached['items']} | {grown[0]} | {grown[1]} | {cached['seconds']:.1f} | {plain['seconds']:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
