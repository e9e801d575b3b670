"""Writes the demo's page: queries with their nearest answers, loss curves and the certificate."""

from __future__ import annotations

import base64
import csv
import html
import io
from pathlib import Path

from lame_runtime.bundle.certificate import Result
from lame_runtime.files.atomic import atomic_text
from lame_training.evaluation.retrieval import RankedPool, read_rows

from lame_export.demo.outcome import DemoOutcome, cosines
from lame_export.demo.style import STYLE

GRAPH = "fp32"
"""Graph whose answers the page shows."""
QUERIES_PER_TASK = 4
"""Number of queries that the page shows of each task."""
TASKS_BEFORE_FIGURES = {
    "find2": "Text → picture of two digits",
    "sum2": "Picture and question → answer, two digits",
}
TASKS_AFTER_FIGURES = {
    "same2": "Picture → another picture with the same sum",
    "digit": "Picture → digit",
    "find3": "Text → picture of three digits",
    "sum3": "Picture and question → answer, three digits",
}
SMOOTHED_STEPS = 10
"""Number of steps that each point of a smoothed loss curve averages."""


def write_page(outcome: DemoOutcome, path: Path) -> None:
    """Writes the page to `path` as one self-contained HTML file.

    Raises:
        StorageError: the file cannot be written.
    """
    parts = [
        "<h1>LaME on handwritten digits</h1>",
        "<p>Pictures, questions and descriptions become vectors in one forward pass; "
        "sums are written nowhere in the pictures. "
        "No digit shown here was seen in training. "
        "Searches ran on ONNX Runtime without PyTorch.</p>",
        *(_queries(outcome, task, title) for task, title in TASKS_BEFORE_FIGURES.items()),
        _scores(outcome),
        _losses(outcome.folder / "checkpoint/losses.csv"),
        *(_queries(outcome, task, title) for task, title in TASKS_AFTER_FIGURES.items()),
        _certificate(outcome.rows),
    ]
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    # the style sheet is inlined, so that the page is a single file
    head = f"{meta}<title>LaME on handwritten digits</title><style>{STYLE}</style>"
    body = "\n".join(parts)
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
    atomic_text(path, page)


def _scores(outcome: DemoOutcome) -> str:
    """Returns the table of hit@1, cosines, speed and size."""
    graphs, reports = list(outcome.reports), outcome.reports
    names = ("queries", "chance", "PyTorch", *graphs)
    head = "".join(f'<th class="n">{name}</th>' for name in names)
    lines = []
    for result in outcome.pytorch:
        cells = [str(len(result.ranks)), f"{result.chance:.3f}", f"{result.hit_at_1:.3f}"]
        cells += [f"{reports[graph].tasks[result.task].hit_at_1:.3f}" for graph in graphs]
        lines.append(_line(result.task, cells))
    # queries, chance and PyTorch have no such figures
    empty = ["", "", ""]
    means, smallest = zip(*(cosines(outcome.rows, graph) for graph in graphs), strict=True)
    lines.append(_line("mean cosine to PyTorch", empty + [f"{mean:.5f}" for mean in means]))
    lines.append(_line("smallest cosine", empty + [f"{cosine:.5f}" for cosine in smallest]))
    speeds = [f"{reports[graph].ms_per_input:.2f}" for graph in graphs]
    lines.append(_line("milliseconds per input", ["", "", f"{outcome.pytorch_ms:.2f}", *speeds]))
    megabytes = [f"{outcome.sizes[graph] / 1e6:.1f}" for graph in graphs]
    lines.append(_line("size, MB", empty + megabytes))
    return (
        '<h2>hit@1</h2><div class="scroll"><table>'
        f"<tr><th>task</th>{head}</tr>{''.join(lines)}</table></div>"
        "<p>fp16 and int8 are meant for GPUs: their cosines are measured on an emulation that "
        "rounds as a GPU does, their milliseconds on this CPU, which computes them in FP32.</p>"
    )


def _line(title: str, cells: list[str]) -> str:
    columns = "".join(f'<td class="n">{cell}</td>' for cell in cells)
    return f"<tr><td>{html.escape(title)}</td>{columns}</tr>"


def _queries(outcome: DemoOutcome, task: str, title: str) -> str:
    """Returns the first correctly answered queries and the first wrongly answered ones.

    Their numbers roughly follow hit@1, but at least one wrong answer is shown, because a page of
    correct answers alone would be misleading.
    """
    rows = read_rows(outcome.folder / "data", task)
    result = outcome.reports[GRAPH].tasks[task]
    share = result.hit_at_1
    wrong_count = min(QUERIES_PER_TASK - 1, max(1, round(QUERIES_PER_TASK * (1 - share))))
    wrong = [index for index, rank in enumerate(result.ranks) if rank > 0][:wrong_count]
    right = [index for index, rank in enumerate(result.ranks) if rank == 0]
    # fills up with correct answers if the graph gave fewer wrong ones
    right = right[: QUERIES_PER_TASK - len(wrong)]
    lines = "".join(_query(rows[index], result.top[index]) for index in [*right, *wrong])
    summary = (
        f"hit@1 {share:.3f} with graph {GRAPH}; here the first {len(right)} that went right "
        f"and the first {len(wrong)} that went wrong."
    )
    return f"<h2>{html.escape(title)}</h2><p>{summary}</p>{lines}"


def _query(row: RankedPool, top: list[int]) -> str:
    """Returns one query with its nearest candidates; candidate 0 is the correct one."""
    query = row.query
    instruction = f"<small>{html.escape(query.instruction)}</small>" if query.instruction else ""
    question = f"{_picture(query.image)}{html.escape(query.text)}{instruction}"
    hits = []
    for index in top:
        kind, mark = ("right", "✓ right") if index == 0 else ("wrong", "✗")
        item = row.candidates[index]
        hits.append(
            f'<div class="hit {kind}">{_picture(item.image)}{html.escape(item.text)}'
            f'<span class="mark">{mark}</span></div>'
        )
    answers = f'<div class="hits">{"".join(hits)}</div>'
    return f'<div class="query"><div class="ask">{question}</div>{answers}</div>'


def _picture(image: object) -> str:
    if image is None:
        return ""
    # embedded, so that the page still shows its pictures after it was moved
    data = base64.b64encode(Path(str(image)).read_bytes()).decode()
    return f'<img class="p" alt="digits" src="data:image/png;base64,{data}">'


def _losses(path: Path) -> str:
    """Returns the loss curves as inline SVG."""
    # without pyplot, which selects a GUI backend when it is imported
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(9, 3))
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    for name, label, color in (("rec", "L_rec", "#2f6fed"), ("nce", "L_nce", "#e07a1f")):
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        if points:
            steps, values = zip(*points, strict=True)
            # the raw losses are too noisy to read, so they are drawn faintly behind their mean
            axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
            axes.plot(steps, _smoothed(values), color=color, label=label)
    # the losses of the two stages are not comparable, so a line separates them
    stages = [row["stage"] for row in rows]
    for index in range(1, len(stages)):
        if stages[index] != stages[index - 1]:
            axes.axvline(index + 0.5, color="#999", linestyle=":")
            axes.annotate(
                "stage 2",
                (index + 0.5, axes.get_ylim()[1]),
                xytext=(4, -12),
                textcoords="offset points",
                fontsize=8,
            )
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    buffer = io.StringIO()
    # without the date, so that equal runs give equal pages
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    # HTML takes the element without the XML declaration before it
    svg = buffer.getvalue()
    return f'<h2>Losses</h2><div class="plot">{svg[svg.index("<svg") :]}</div>'


def _smoothed(values: tuple[float, ...]) -> list[float]:
    """Returns the mean of each value and the `SMOOTHED_STEPS` - 1 values before it."""
    means = []
    for index in range(len(values)):
        window = values[max(0, index + 1 - SMOOTHED_STEPS) : index + 1]
        means.append(sum(window) / len(window))
    return means


def _certificate(rows: list[Result]) -> str:
    """Returns the certificate as a table."""
    marks = {
        True: '<span class="ok">✓</span>',
        False: '<span class="bad">✗</span>',
        None: "reported",
    }
    lines = []
    for row in rows:
        cells = (row.comparison, row.graph, row.modality, str(row.inputs), row.describe())
        columns = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr>{columns}<td>{marks[row.passed]}</td></tr>")
    gated = [row for row in rows if row.passed is not None]
    passed = sum(row.passed is True for row in gated)
    names = ("comparison", "graph", "modality", "inputs", "figure (gate)", "")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f"<h2>Certificate</h2><p>{passed} of {len(gated)} gated rows hold, "
        f"{len(rows) - len(gated)} are reported without a gate.</p>"
        f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
    )
