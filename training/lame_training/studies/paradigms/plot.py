"""Draws milliseconds per sample over prompt length: a panel per batch size, a line per paradigm.

The times as multiples of LaME's stand beside the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lame_runtime.files.atomic import atomic_path
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lame_training.studies.paradigms.baselines import (
    Discriminative,
    ExplicitCoT,
    LaME,
    LatentRollout,
)
from lame_training.studies.paradigms.measure import Cell

# markers and line styles differ, too: the plot is readable in gray
STYLES: dict[str, dict[str, Any]] = {
    ExplicitCoT.name: {"color": "#b3541e", "marker": "s"},
    LatentRollout.name: {"color": "#6a5acd", "marker": "^"},
    Discriminative.name: {"color": "#777777", "marker": "D", "linestyle": "--"},
    LaME.name: {"color": "#0b7a75", "marker": "o", "linewidth": 2.4},
}
"""Style of each paradigm's line, in drawing order: LaME last, on top."""
WITH_RATIO = (ExplicitCoT.name, LatentRollout.name)
"""Paradigms with ratios beside their points; the plain embedder's would cover LaME's line."""


def draw(cells: Sequence[Cell], target: Path, subject: str) -> None:
    """Writes the plot as a PNG. A paradigm that did not fit into memory has no point.

    Args:
        cells: one cell or more.
        target: the file to write.
        subject: model and machine, for the title.

    Raises:
        StorageError: the file cannot be written.
    """
    batch_sizes = sorted({cell.batch_size for cell in cells})
    lengths = sorted({cell.length for cell in cells})
    # `Figure` instead of pyplot, which would hold on to the figure until it is closed
    figure = Figure(figsize=(3.6 * len(batch_sizes) + 1.6, 4.8), layout="constrained", dpi=144)
    # a shared scale, so that batch sizes can be compared
    panels = figure.subplots(1, len(batch_sizes), sharey=True, squeeze=False)[0]
    for panel, batch_size in zip(panels, batch_sizes, strict=True):
        panel_cells = [cell for cell in cells if cell.batch_size == batch_size]
        for name in STYLES:
            _draw_line(panel, panel_cells, name)
        # both axes logarithmic: equal distances are equal ratios
        panel.set(xscale="log", yscale="log", title=f"batch {batch_size}", xlabel="prompt length L")
        panel.set_xticks(lengths, [f"{length:,}" for length in lengths])
        panel.minorticks_off()
        # room for the labels of the outermost points
        panel.margins(x=0.12, y=0.12)
        panel.grid(visible=True, alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("milliseconds per sample")
    # plain numbers in place of powers of ten
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(STYLES),
        frameon=False,
    )
    figure.suptitle(
        f"What one embedding costs in four paradigms; labels are times LaME's\n{subject}",
        fontsize="medium",
    )
    with atomic_path(target) as path:
        # the format is given, because the temporary file's name does not end in .png
        figure.savefig(path, format="png")


def _draw_line(panel: Axes, cells: Sequence[Cell], name: str) -> None:
    """Draws one paradigm's line through the cells of one batch size, with its ratios."""
    style = STYLES[name]
    measured = [cell for cell in cells if cell.timings[name].draws_ms]
    lengths = [cell.length for cell in measured]
    milliseconds = [cell.timings[name].ms for cell in measured]
    panel.plot(lengths, milliseconds, label=name, **style)
    if name not in WITH_RATIO:
        return
    for cell, ms in zip(measured, milliseconds, strict=True):
        ratio = cell.ratio(name, LaME.name)
        if ratio is None:
            continue
        panel.annotate(
            f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×",
            (cell.length, ms),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize="small",
            color=style["color"],
        )
