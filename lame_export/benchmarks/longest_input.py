"""Measures the memory that the longest inputs take: passes of an export, and graphs on a CPU.

    python lame_export/benchmarks/longest_input.py DIR

The model has the widths of Qwen3-VL-2B, random FP16 weights, limits of 8,192 tokens and 16,384
patches, and only two text layers and three vision layers: layers run one after the other, so their
number changes the time and the weights, and not what an input takes.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

GRAPHS = ("fp32", "fp32-cpu")
LENGTHS = (1024, 4096, 8192)


def write_checkpoint(folder: Path) -> Path:
    """Writes the untrained checkpoint, and returns its folder."""
    import torch
    from lame_training.contract_from.budget import Budget
    from lame_training.fixtures import sample_backbone
    from lame_training.recipes.catalog import find_recipe
    from lame_training.run.initialization import initialize

    shape = copy.deepcopy(sample_backbone.SHAPES["qwen3_vl", "2b"])
    shape["text_config"]["num_hidden_layers"] = 2
    shape["vision_config"] |= {"depth": 3, "deepstack_visual_indexes": [0, 1]}
    sample_backbone.SHAPES["qwen3_vl", "thin"] = shape
    sample_backbone.write_sample("qwen3_vl", folder / "backbone", "thin", dtype=torch.float16)
    budget = Budget(max_length=8192, max_pixels=16_384 * 16**2, max_frames=64, visuals=32)
    recipe = dataclasses.replace(
        find_recipe("lame-qwen3-vl-8b"), decoder=None, dim=1024, budget=budget
    )
    initialize(recipe, folder / "checkpoint", folder / "backbone")
    return folder / "checkpoint"


def export_until(last: str, checkpoint: Path, data: Path, folder: Path) -> None:
    """Runs the passes of an export up to `last`, and prints what each took."""
    from lame_export.passes.base import run_passes
    from lame_export.plan import PLAN
    from lame_export.state import ExportOptions, ExportState

    (folder / "bundle/graphs").mkdir(parents=True)
    (folder / "scratch").mkdir()
    options = ExportOptions(graphs=(*GRAPHS, "fp16"), per_modality=1, calibration=1)
    state = ExportState(checkpoint, data, folder / "bundle", options, folder / "scratch")
    names = [step.name for step in PLAN]
    for step in PLAN[: names.index(last) + 1]:
        run_passes(state, [step])
        cost = state.passes[-1]
        if cost.name == step.name:
            print(f"| {step.name} | {cost.describe()} |", flush=True)


def measure(graph: str, folder: Path) -> None:
    """Prints, as JSON, the memory of a graph: while it is loaded, and for texts of each length."""
    from lame_runtime.backends.onnxruntime import open_session, run_session
    from lame_runtime.machine.memory import peak_memory, reset_peak_memory

    session = open_session(folder / f"encoder.{graph}.onnx")
    width = session.get_inputs()[1].shape[-1]
    facts = {"loading": peak_memory()}
    for length in LENGTHS:
        ids = np.random.default_rng(0).integers(0, 300, (1, length))
        feeds = {
            "input_ids": ids,
            "features": np.zeros((1, width), np.float32),
            "feature_index": np.zeros_like(ids),
            "position_ids": np.tile(np.arange(length, dtype=np.int64), (3, 1, 1)),
            "embed_index": np.array([length - 1]),
        }
        reset_peak_memory()
        before = peak_memory()
        run_session(session, feeds)
        after = peak_memory()
        if before is not None and after is not None:
            facts[f"{length} tokens"] = after - before
    print(json.dumps(facts))


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="a folder with room for 10 GB; it must not exist")
    parser.add_argument("--until", default="scan", help="last pass of the export to run")
    # for the processes that it starts
    parser.add_argument("--graph", choices=GRAPHS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.graph:
        measure(options.graph, options.dir)
        return
    options.dir.mkdir(parents=True)
    data = options.dir / "data"
    subprocess.run(["lame-train", "digits", str(data), "--tiny"], check=True)
    # each in a process of its own, so that its peak memory is its own
    checkpoint = write_checkpoint(options.dir)
    export_until(options.until, checkpoint, data, options.dir / "export")
    for graph in GRAPHS:
        folder = options.dir / "export/bundle/graphs"
        command = [sys.executable, __file__, str(folder), "--graph", graph]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"| {graph} | {done.stdout.strip()} |", flush=True)


if __name__ == "__main__":
    main()
