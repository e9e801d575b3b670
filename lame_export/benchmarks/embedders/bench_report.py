"""The table and the plot of the comparison."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

BASE = "Sentence Transformers"
"""The side that the others are compared with."""
COLORS = {
    "Sentence Transformers": "#8a8f98",
    "Sentence Transformers, BF16": "#c3c7cd",
    "Hugging Face": "#5b6470",
    "OpenVINO": "#b8a04a",
    "LaME, fp32-cpu": "#2f7fb8",
    "LaME, int8-cpu": "#0b4f7d",
}
"""Color of each side's bars."""


def speedups(work: dict[str, Any]) -> dict[str, float]:
    """Returns how many times as fast as `BASE` each side is: the median over the rounds."""
    base = work["sides"][BASE]["seconds"]
    return {
        name: statistics.median(
            theirs / ours for theirs, ours in zip(base, side["seconds"], strict=True)
        )
        for name, side in work["sides"].items()
    }


def table(figures: dict[str, Any]) -> str:
    """Returns speeds, agreement, memory, start and size as a Markdown table."""
    names = list(figures["sides"])
    lines = [
        "| | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for name, work in figures["workloads"].items():
        ratios = speedups(work)
        rate = work["items"] / statistics.median(work["sides"][BASE]["seconds"])
        cells = [f"{ratios[side]:.2f}" for side in names]
        lines.append(f"| {name} ({rate:.3g} items/s = 1) | " + " | ".join(cells) + " |")
    base = figures["sides"][BASE]
    first = statistics.median(base["first"])
    rows = {
        f"time to the first vector ({first:.1f} s = 1)": lambda side: (
            f"{statistics.median(side['first']) / first:.2f}"
        ),
        f"peak memory ({base['peak'] / 1e6:,.0f} MB = 1)": lambda side: (
            f"{side['peak'] / base['peak']:.2f}"
        ),
        f"installed size ({base['installed'] / 1e6:,.0f} MB = 1)": lambda side: (
            f"{side['installed'] / base['installed']:.2f}"
        ),
    }
    for title, cell in rows.items():
        lines.append(f"| {title} | " + " | ".join(cell(figures["sides"][n]) for n in names) + " |")
    cosines = [
        min(work["sides"][side]["cosine"] for work in figures["workloads"].values())
        for side in names
    ]
    lines.append(
        "| least cosine to Hugging Face | " + " | ".join(f"{c:.5f}" for c in cosines) + " |"
    )
    lines += [f"\n{side}: not measured, {reason}" for side, reason in figures["skipped"].items()]
    return "\n".join(lines)


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draws the speed of every side and workload as bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(figures["sides"])
    works = figures["workloads"]
    figure, axes = plt.subplots(figsize=(9, 5))
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        values = [speedups(work)[name] for work in works.values()]
        rows = [row + place * height for row in range(len(works))]
        bars = axes.barh(rows, values, height * 0.92, label=name, color=COLORS[name])
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(works))], list(works))
    axes.invert_yaxis()
    axes.axvline(1, color="#8a8f98", linewidth=0.8)
    axes.set_xlabel(f"items per second, relative to {BASE}")
    axes.spines[["top", "right"]].set_visible(False)
    # above the bars: below or beside them there is a bar of some workload
    axes.legend(frameon=False, fontsize=8, ncol=3, loc="lower left", bbox_to_anchor=(0, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
