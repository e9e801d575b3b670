"""2 B parameters on a small machine: Qwen2-VL and Qwen3-VL of the published shapes, in random FP16 weights.

    make realsize                                            both families, tables for runtime/BENCHMARKS.md
    python lame_export/benchmarks/realsize.py DIR qwen3_vl   one of them

Each step runs in a process of its own, so that its peak memory (maximum resident set, pages mapped from files
included) is its own: backbone, checkpoint, export to FP16 and INT8, TensorRT-RTX plans, eight inputs through the FP16
bundle without PyTorch, PyTorch in FP32 as the reference, and both graphs as a GPU would round them (the emulation). Where
PyTorch sees a GPU, it and ONNX Runtime's CUDA provider are measured there too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from realsize_steps import FAMILIES, STEPS, Facts, peak


def measure(root: Path, family: str) -> dict[str, Facts]:
    """Every step in its own process; what it reports, its time and its peak memory."""
    facts: dict[str, Facts] = {}
    for name in STEPS:
        began = time.perf_counter()
        command = [sys.executable, __file__, str(root), family, "--step", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            raise SystemExit(f"{family}, {name}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
        facts[name] = {**json.loads(lines[-1]), "seconds": time.perf_counter() - began}
        print(f"{family} {name}: {json.dumps(facts[name])}", file=sys.stderr, flush=True)
    return facts


def table(family: str, facts: dict[str, Facts]) -> str:
    """Markdown; a cosine is to PyTorch in FP32."""
    weights = facts["checkpoint"]["bytes"]
    passes = ", ".join(f"{name} {seconds:.0f}" for name, seconds in facts["export"]["passes"].items())
    lines = [
        f"**{family}**, {facts['export']['parameters'] / 1e9:.2f} G parameters, {weights / 1e9:.2f} GB of FP16 weights",
        "",
        "| step | seconds | peak memory, GB (× weights) | result |",
        "| --- | --- | --- | --- |",
    ]
    sizes, plans = facts["export"]["sizes"], facts["plans"]
    results = {
        "backbone": f"{facts['backbone']['bytes'] / 1e9:.2f} GB",
        "checkpoint": f"{weights / 1e9:.2f} GB",
        "export": f"fp16 {sizes['fp16'] / 1e9:.2f} GB, int8 {sizes['int8'] / 1e9:.2f} GB; seconds: {passes}",
        "plans": f"TensorRT-RTX {plans['version']}: " + ", ".join(f"{part} {size / 1e9:.2f} GB" for part, size in plans["sizes"].items()),
        "reference": f"mean cosine between two inputs {facts['reference']['mean_cosine_between_inputs']:.3f}",
    }
    for name in ("runtime", "mapped"):
        run = facts[name]
        results[name] = f"{run['backend']}: load {run['load']:.1f} s, {run['peak_at_load'] / 1e9:.1f} GB; embed {run['embed']:.1f} s"
    if found := facts["speed"].get("speed"):
        results["speed"] = "ms per text, batch x tokens: " + "; ".join(
            f"{name}: " + ", ".join(f"{side} {ms:.1f}" for side, ms in sides.items()) for name, sides in found.items()
        )
    for name, each in facts.items():
        cosine = f"cosine mean {each['mean_cosine']:.6f}, min {each['min_cosine']:.6f}" if "mean_cosine" in each else ""
        result = "; ".join(part for part in (results.get(name, ""), cosine) if part)
        lines.append(f"| {name} | {each['seconds']:.0f} | {each['peak'] / 1e9:.1f} ({each['peak'] / weights:.2f}) | {result} |")
    return "\n".join(lines)


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="where 20 GB may lie for a while")
    parser.add_argument("families", nargs="*", default=FAMILIES, help=" or ".join(FAMILIES))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        found = STEPS[options.step](options.dir, options.families[0])
        print(json.dumps({**found, "peak": peak()}))
        return
    for family in options.families:
        root = options.dir / family
        root.mkdir(parents=True)
        print(table(family, measure(root, family)), flush=True)


if __name__ == "__main__":
    main()
