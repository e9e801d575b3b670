"""One plot: milliseconds per sample over prompt length, a panel per batch size, a line per paradigm, ratios beside the points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lame_runtime.atomic import atomic_path
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lame_training.paradigms.baselines import Discriminative, ExplicitCoT, LaME, LatentRollout
from lame_training.paradigms.measure import Cell

STYLES: dict[str, dict[str, Any]] = {
    ExplicitCoT.name: {"color": "#b3541e", "marker": "s"},
    LatentRollout.name: {"color": "#6a5acd", "marker": "^"},
    Discriminative.name: {"color": "#777777", "marker": "D", "linestyle": "--"},
    LaME.name: {"color": "#0b7a75", "marker": "o", "linewidth": 2.4},
}
"""Told apart in grey, too; LaME is drawn last, on top."""
WITH_RATIO = (ExplicitCoT.name, LatentRollout.name)


def draw(cells: Sequence[Cell], target: Path, subject: str) -> None:
    """Writes a PNG. Both axes are logarithmic, so that equal distances are equal ratios; what did not fit has no point.

    Args:
        cells: one or more.
        target: the file.
        subject: model and machine, for the title.
    """
    batches = sorted({cell.batch_size for cell in cells})
    lengths = sorted({cell.length for cell in cells})
    figure = Figure(figsize=(3.6 * len(batches) + 1.6, 4.8), layout="constrained", dpi=144)
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for panel, batch in zip(panels, batches, strict=True):
        chosen = [cell for cell in cells if cell.batch_size == batch]
        for name, style in STYLES.items():
            points = [(cell.length, cell.timings[name].ms, cell.ratio(name, LaME.name)) for cell in chosen if cell.timings[name].draws_ms]
            panel.plot([length for length, _, _ in points], [ms for _, ms, _ in points], label=name, **style)
            for length, ms, ratio in points if name in WITH_RATIO else ():
                if ratio is not None:
                    label = f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×"
                    panel.annotate(
                        label, (length, ms), (0, 6), textcoords="offset points", ha="center", fontsize="small", color=style["color"]
                    )
        panel.set(xscale="log", yscale="log", title=f"batch {batch}", xlabel="prompt length L")
        panel.set_xticks(lengths, [f"{length:,}" for length in lengths])
        panel.minorticks_off()
        panel.margins(x=0.12, y=0.12)
        panel.grid(visible=True, alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("milliseconds per sample")
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STYLES), frameon=False)
    figure.suptitle(f"What one embedding costs in four paradigms; labels are times LaME's\n{subject}", fontsize="medium")
    with atomic_path(target) as path:
        figure.savefig(path, format="png")
