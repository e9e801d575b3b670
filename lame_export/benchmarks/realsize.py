"""Measures models of 2 B parameters on a small machine: time, peak memory, and precision.

    make realsize                                            both families, as Markdown tables
    python lame_export/benchmarks/realsize.py DIR qwen3_vl   one family

Qwen2-VL and Qwen3-VL have published shapes and random FP16 weights. The steps are: backbone,
checkpoint, export to FP16 and INT8, TensorRT-RTX plans, PyTorch in FP32 as the reference, eight
inputs through the FP16 bundle without PyTorch, and both graphs rounded as a GPU rounds them (the
emulation). If PyTorch sees a GPU, it and ONNX Runtime's CUDA provider are measured there as well.

Each step runs in a process of its own, so that its peak memory is its own. Peak memory is the
maximum resident set, which includes pages that are mapped from files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from realsize_run import STEPS
from realsize_workspace import FAMILIES, Facts, Workspace, peak_memory


def measure(workspace: Workspace) -> dict[str, Facts]:
    """Runs every step in a process of its own; returns its facts, its time and its peak memory."""
    # This process must stay small, and so imports no step's libraries: Linux carries the maximum
    # resident set over from a parent to the program that it starts.
    facts: dict[str, Facts] = {}
    family = workspace.family
    for name in STEPS:
        start = time.perf_counter()
        command = [sys.executable, __file__, str(workspace.root), family, "--step", name]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = process.stdout.strip().splitlines()
        if process.returncode or not lines:
            # The last line of a traceback is the error itself.
            errors = process.stderr.strip().splitlines() or ["no output"]
            raise SystemExit(f"{family}, {name}: {errors[-1]}")
        # Libraries may print, too; the facts are the last line.
        facts[name] = {**json.loads(lines[-1]), "seconds": time.perf_counter() - start}
        print(f"{family} {name}: {json.dumps(facts[name])}", file=sys.stderr, flush=True)
    return facts


def table(family: str, facts: dict[str, Facts]) -> str:
    """Returns the facts of all steps as Markdown; cosines are to PyTorch in FP32."""
    weights = facts["checkpoint"]["bytes"]
    parameters = facts["export"]["parameters"]
    lines = [
        f"**{family}**, {parameters / 1e9:.2f} G parameters, "
        f"{weights / 1e9:.2f} GB of FP16 weights",
        "",
        "| step | seconds | peak memory, GB (× weights) | result |",
        "| --- | --- | --- | --- |",
    ]
    results = _results(facts)
    for name, step in facts.items():
        parts = [results[name]] if name in results else []
        if "mean_cosine" in step:
            parts.append(f"cosine mean {step['mean_cosine']:.6f}, min {step['min_cosine']:.6f}")
        memory = f"{step['peak'] / 1e9:.1f} ({step['peak'] / weights:.2f})"
        lines.append(f"| {name} | {step['seconds']:.0f} | {memory} | {'; '.join(parts)} |")
    return "\n".join(lines)


def _results(facts: dict[str, Facts]) -> dict[str, str]:
    """Returns what the table says about each step, apart from time, memory and cosines."""
    export, plans = facts["export"], facts["plans"]
    passes = ", ".join(f"{name} {seconds:.0f}" for name, seconds in export["passes"].items())
    sizes = ", ".join(f"{graph} {size / 1e9:.2f} GB" for graph, size in export["sizes"].items())
    plan_sizes = ", ".join(f"{part} {size / 1e9:.2f} GB" for part, size in plans["sizes"].items())
    between_inputs = facts["reference"]["mean_cosine_between_inputs"]
    results = {
        "backbone": f"{facts['backbone']['bytes'] / 1e9:.2f} GB",
        "checkpoint": f"{facts['checkpoint']['bytes'] / 1e9:.2f} GB",
        "export": f"{sizes}; seconds: {passes}",
        "plans": f"TensorRT-RTX {plans['version']}: {plan_sizes}",
        "reference": f"mean cosine between two inputs {between_inputs:.3f}",
    }
    for name in ("runtime", "mapped"):
        run = facts[name]
        loading = f"load {run['load']:.1f} s, {run['peak_at_load'] / 1e9:.1f} GB"
        results[name] = f"{run['backend']}: {loading}; embed {run['embed']:.1f} s"
    # Empty on a machine without a GPU.
    speeds = facts["speed"].get("speed")
    if speeds:
        results["speed"] = "ms per text, batch x tokens: " + "; ".join(
            f"{name}: " + ", ".join(f"{side} {ms:.1f}" for side, ms in sides.items())
            for name, sides in speeds.items()
        )
    return results


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="a folder with room for 20 GB")
    parser.add_argument("families", nargs="*", default=FAMILIES, help=" or ".join(FAMILIES))
    # For the processes that `measure` starts.
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        facts = STEPS[options.step](Workspace(options.dir, options.families[0]))
        print(json.dumps({**facts, "peak": peak_memory()}))
        return
    for family in options.families:
        workspace = Workspace(options.dir / family, family)
        # An existing folder is refused: steps would read what an earlier run wrote.
        workspace.root.mkdir(parents=True)
        print(table(family, measure(workspace)), flush=True)


if __name__ == "__main__":
    main()
