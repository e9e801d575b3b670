"""One plot: milliseconds per sample over prompt length, a panel per batch size, a line per paradigm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from lame_runtime.atomic import atomic_path
from matplotlib.figure import Figure

from lame_training.paradigms.baselines import Discriminative, ExplicitCoT, LaME, LatentRollout
from lame_training.paradigms.measure import Cell

STYLES = {
    ExplicitCoT.name: ("#b3541e", "s", "-"),
    LatentRollout.name: ("#6a5acd", "^", "-"),
    LaME.name: ("#0b7a75", "o", "-"),
    Discriminative.name: ("#555555", "D", "--"),
}
"""Colour, marker and line; told apart in grey, too."""


def draw(cells: Sequence[Cell], target: Path, subtitle: str) -> None:
    """Writes a PNG; both axes are logarithmic, so that equal distances are equal ratios."""
    batches = sorted({cell.batch_size for cell in cells})
    lengths = sorted({cell.length for cell in cells})
    if not cells:
        return
    figure = Figure(figsize=(3.4 * len(batches) + 1.4, 4.4), layout="constrained", dpi=144)
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for panel, batch in zip(panels, batches, strict=True):
        for name, (colour, marker, line) in STYLES.items():
            points = [(c.length, c.timings[name].ms) for c in cells if c.batch_size == batch and c.timings[name].draws_ms]
            panel.plot(*zip(*points, strict=True) if points else ([], []), line, color=colour, marker=marker, label=name)
        panel.set(xscale="log", yscale="log", title=f"batch {batch}", xlabel="prompt length L")
        panel.set_xticks(lengths, [f"{length:,}" for length in lengths])
        panel.minorticks_off()
        panel.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("milliseconds per sample")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STYLES), frameon=False)
    figure.suptitle(subtitle)
    with atomic_path(target) as path, mpl.rc_context({"svg.hashsalt": "0"}):
        figure.savefig(path, format="png")
