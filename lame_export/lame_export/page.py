"""The demo's page: queries with their five nearest pictures, loss curves, the parity table. One self-contained file."""

from __future__ import annotations

import base64
import csv
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING

from lame_runtime.atomic import atomic_text
from lame_runtime.gates import Result
from lame_runtime.retrieval import Row, read_rows

if TYPE_CHECKING:
    from lame_export.demo import Shown

PER_TASK = 4
FIRST = {
    "find2": "Text → picture of two digits",
    "sum2": "Picture and question → answer, two digits",
}
"""Shown above the figures."""
MORE = {
    "same2": "Picture → another picture with the same sum",
    "digit": "Picture → digit",
    "find3": "Text → picture of three digits",
    "sum3": "Picture and question → answer, three digits",
}
"""Shown below the figures."""
STYLE = """
:root { --ink: #1d2129; --soft: #667085; --line: #e3e6eb; --ground: #fff; --card: #f7f8fa; --right: #12805c; --wrong: #b42318; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #98a2b3; --line: #333a45; --ground: #14171c; --card: #1d2129; --right: #4cc38a; --wrong: #ff8a7a; }
  .plot { background: #fff; border-radius: 8px; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  margin: 0 auto; max-width: 1060px; padding: 32px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 40px 0 10px; }
p { color: var(--soft); margin: 4px 0 12px; max-width: 95ch; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.query { display: flex; align-items: center; gap: 18px; padding: 10px 0; border-bottom: 1px solid var(--line); flex-wrap: wrap; }
.ask { width: 250px; flex: none; }
.ask small { color: var(--soft); display: block; }
.hits { display: flex; gap: 10px; flex-wrap: wrap; }
.hit { border: 2px solid var(--line); border-radius: 8px; padding: 6px; background: var(--card);
  text-align: center; min-width: 64px; font-size: 13px; }
.hit .mark { display: block; font-size: 12px; color: var(--soft); }
.hit.right { border-color: var(--right); }
.hit.right .mark { color: var(--right); }
.hit.wrong:first-child { border-color: var(--wrong); }
.hit.wrong:first-child .mark { color: var(--wrong); }
img.p { height: 40px; image-rendering: pixelated; display: block; margin: 0 auto 3px; border-radius: 3px; }
.ask img.p { margin-left: 0; }
.plot svg { width: 100%; height: auto; }
.ok { color: var(--right); }
.bad { color: var(--wrong); }
"""


def write_page(shown: Shown, path: Path) -> None:
    """Writes the page at `path`."""
    graph = "fp32"
    parts = [
        "<h1>LaME on handwritten digits</h1>",
        "<p>Pictures, questions and descriptions become vectors in one forward pass; sums are written nowhere in the pictures. "
        "No digit shown here was seen in training. Searches ran on ONNX Runtime without PyTorch.</p>",
        *(_queries(shown, graph, task, title) for task, title in FIRST.items()),
        _scores(shown),
        _losses(shown.folder / "checkpoint/losses.csv"),
        *(_queries(shown, graph, task, title) for task, title in MORE.items()),
        _parity(shown.rows),
    ]
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"{meta}<title>LaME on handwritten digits</title><style>{STYLE}</style>"
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{chr(10).join(parts)}</body></html>\n'
    atomic_text(path, page)


def _scores(shown: Shown) -> str:
    from lame_export.demo import cosines

    head = "".join(f'<th class="n">{name}</th>' for name in ("queries", "chance", "PyTorch", *shown.graphs))
    lines = []
    for result in shown.pytorch:
        cells = [str(len(result.ranks)), f"{result.chance:.3f}", f"{result.hit_at_1:.3f}"]
        cells += [f"{report['tasks'][result.task]['hit@1']:.3f}" for report in shown.graphs.values()]
        lines.append(_line(result.task, cells))
    both = [cosines(shown.rows, graph) for graph in shown.graphs]
    lines.append(_line("mean cosine to PyTorch", ["", "", "", *(f"{mean:.5f}" for mean, _ in both)]))
    lines.append(_line("smallest cosine", ["", "", "", *(f"{least:.5f}" for _, least in both)]))
    speeds = [f"{report['ms_per_input']:.2f}" for report in shown.graphs.values()]
    lines.append(_line("milliseconds per input", ["", "", f"{shown.pytorch_ms:.2f}", *speeds]))
    lines.append(_line("size, MB", ["", "", "", *(f"{shown.sizes[graph] / 1e6:.1f}" for graph in shown.graphs)]))
    return (
        f'<h2>hit@1</h2><div class="scroll"><table><tr><th>task</th>{head}</tr>{"".join(lines)}</table></div>'
        "<p>fp16 and int8 are meant for GPUs: their cosines are measured on an emulation that rounds as a GPU does, "
        "their milliseconds on this CPU, which computes them in FP32.</p>"
    )


def _line(title: str, cells: list[str]) -> str:
    return f"<tr><td>{html.escape(title)}</td>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"


def _queries(shown: Shown, graph: str, task: str, title: str) -> str:
    """The first queries that went right and the first that went wrong, in about the proportion of hit@1, one wrong at least."""
    rows = read_rows(shown.folder / "data", task)
    found = shown.graphs[graph]["tasks"][task]
    ranks, share = found["ranks"], found["hit@1"]
    n_wrong = min(PER_TASK - 1, max(1, round(PER_TASK * (1 - share))))
    wrong = [index for index, rank in enumerate(ranks) if rank > 0][:n_wrong]
    right = [index for index, rank in enumerate(ranks) if rank == 0][: PER_TASK - len(wrong)]
    lines = "".join(_query(rows[index], found["top"][index]) for index in [*right, *wrong])
    said = f"hit@1 {share:.3f} with graph {graph}; here the first {len(right)} that went right and the first {len(wrong)} that went wrong."
    return f"<h2>{html.escape(title)}</h2><p>{said}</p>{lines}"


def _query(row: Row, top: list[int]) -> str:
    instruction = f"<small>{html.escape(row.query.instruction)}</small>" if row.query.instruction else ""
    ask = f'<div class="ask">{_picture(row.query.image)}{html.escape(row.query.text)}{instruction}</div>'
    hits = []
    for index in top:
        kind, mark = ("right", "✓ right") if index == 0 else ("wrong", "✗")
        item = row.candidates[index]
        hits.append(f'<div class="hit {kind}">{_picture(item.image)}{html.escape(item.text)}<span class="mark">{mark}</span></div>')
    return f'<div class="query">{ask}<div class="hits">{"".join(hits)}</div></div>'


def _picture(image: object) -> str:
    if image is None:
        return ""
    data = base64.b64encode(Path(str(image)).read_bytes()).decode()
    return f'<img class="p" alt="digits" src="data:image/png;base64,{data}">'


def _losses(path: Path) -> str:
    """The loss curves as inline SVG, smoothed over ten steps."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(9, 3))
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    for name, label, colour in (("rec", "L_rec", "#2f6fed"), ("nce", "L_nce", "#e07a1f")):
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        if points:
            steps, values = zip(*points, strict=True)
            smooth = [sum(values[max(0, i - 9) : i + 1]) / len(values[max(0, i - 9) : i + 1]) for i in range(len(values))]
            axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            axes.plot(steps, smooth, color=colour, label=label)
    stages = [row["stage"] for row in rows]
    for index in range(1, len(stages)):
        if stages[index] != stages[index - 1]:
            axes.axvline(index + 0.5, color="#999", linestyle=":")
            axes.annotate("stage 2", (index + 0.5, axes.get_ylim()[1]), xytext=(4, -12), textcoords="offset points", fontsize=8)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return f'<h2>Losses</h2><div class="plot">{svg[svg.index("<svg") :]}</div>'


def _parity(rows: list[Result]) -> str:
    lines = []
    for row in rows:
        mark = {True: '<span class="ok">✓</span>', False: '<span class="bad">✗</span>', None: "reported"}[row.passed]
        cells = (row.comparison, row.graph, row.modality, str(row.inputs), row.describe())
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + f"<td>{mark}</td></tr>")
    gated = [row for row in rows if row.passed is not None]
    held = sum(row.passed is True for row in gated)
    return (
        f"<h2>Certificate</h2><p>{held} of {len(gated)} gated rows hold, {len(rows) - len(gated)} are reported without a gate.</p>"
        '<div class="scroll"><table><tr><th>comparison</th><th>graph</th><th>modality</th><th>inputs</th>'
        "<th>figure (gate)</th><th></th></tr>"
        f"{''.join(lines)}</table></div>"
    )
