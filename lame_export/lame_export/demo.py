"""`lame-export demo`: the whole line once, from handwritten digits to a searched, torch-free bundle and a page about it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.atomic import atomic_text
from lame_runtime.bundle import Bundle
from lame_runtime.errors import InputError
from lame_runtime.gates import Result
from lame_runtime.retrieval import TaskResult
from lame_runtime.verify import read_certificate
from rich.console import Console
from rich.table import Table

from lame_export.errors import ExportError
from lame_export.page import write_page
from lame_export.plan import PLAN, USUAL, export

FORBIDDEN = frozenset({"torch", "transformers", "onnx", "lame_training", "lame_export"})
"""What the process that serves must not have imported."""


@dataclass(frozen=True)
class Shown:
    """What table and page are made of."""

    folder: Path
    pytorch: list[TaskResult]
    pytorch_ms: float
    graphs: dict[str, dict[str, Any]]
    """Per graph the report of `lame_runtime.retrieval`."""
    rows: list[Result]
    sizes: dict[str, int]


def run_demo(folder: Path, recipe_name: str = "digits", console: Console | None = None) -> Shown:
    """Writes DIR/data, DIR/checkpoint, DIR/bundle and DIR/index.html; parts that are already complete are kept.

    Args:
        folder: DIR.
        recipe_name: a recipe on the digits data; tests use a tiny one.
        console: where progress and the table go.

    Raises:
        ExportError: a gate was not met, or the serving process imported what it must not.
        InputError: the folder holds the demo of another recipe, or cannot be written.
    """
    console = console or Console()
    data, checkpoint, bundle = folder / "data", folder / "checkpoint", folder / "bundle"
    _claim(folder, recipe_name)
    _step(console, "1/5 data", _write_data, data, recipe_name)
    _step(console, "2/5 training", _train, data, checkpoint, bundle, recipe_name)
    _step(console, "3/5 export and certificate", _export, console, checkpoint, bundle, data)
    reports = _step(console, "4/5 search, in processes without PyTorch", _search, bundle, data, folder)
    pytorch, pytorch_ms = _step(console, "5/5 PyTorch, for comparison", _pytorch, checkpoint, data)
    opened = Bundle.open(bundle)
    sizes = {graph: opened.size(graph) for graph in opened.graphs}
    shown = Shown(folder, pytorch, pytorch_ms, reports, read_certificate(bundle)["rows"], sizes)
    console.print(results_table(shown))
    write_page(shown, folder / "index.html")
    console.print(f"wrote {folder / 'index.html'}: open it in a browser")
    return shown


def _step(console: Console, title: str, run: Any, *arguments: Any) -> Any:
    began = time.perf_counter()
    console.print(f"[bold]{title}")
    result = run(*arguments)
    console.print(f"  done in {time.perf_counter() - began:.0f} s")
    return result


def _write_data(data: Path, recipe_name: str) -> None:
    from lame_training.digits import FULL, TINY, write_digits

    if not data.is_dir():
        write_digits(data, TINY if recipe_name.endswith("-tiny") else FULL)


def _claim(folder: Path, recipe_name: str) -> None:
    """Marks DIR as the demo of a recipe; raises `InputError` where it is another's or there is no such recipe."""
    from lame_training.recipes import find_recipe

    find_recipe(recipe_name)
    mark = folder / "demo.json"
    if mark.is_file():
        if (found := json.loads(mark.read_text(encoding="utf-8"))["recipe"]) != recipe_name:
            raise InputError(f"{folder}: holds the demo of recipe {found}; choose another folder")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None
    atomic_text(mark, json.dumps({"recipe": recipe_name}) + "\n")


def _train(data: Path, checkpoint: Path, bundle: Path, recipe_name: str) -> None:
    from lame_training.loop import run
    from lame_training.recipes import find_recipe

    if not (checkpoint / "config.json").is_file():
        shutil.rmtree(bundle, ignore_errors=True)  # of an older checkpoint
        run(find_recipe(recipe_name), data, checkpoint, resume=(checkpoint / "recipe.json").is_file())


def _export(console: Console, checkpoint: Path, bundle: Path, data: Path) -> None:
    if bundle.is_dir():
        return
    with console.status("") as status:
        export(
            checkpoint,
            bundle,
            data,
            on_pass=lambda name: status.update(f"pass {name} ({[p.name for p in PLAN].index(name) + 1} of {len(PLAN)})"),
        )


def _search(bundle: Path, data: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Every graph in a process of its own, which must not have imported PyTorch."""
    reports = {}
    for graph in USUAL:
        out = folder / f"search-{graph}.json"
        command = [sys.executable, "-m", "lame_runtime.retrieval", str(bundle), str(data), "--graph", graph, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(f"searching with graph {graph} failed: {done.stderr.strip()}")
        reports[graph] = json.loads(out.read_text(encoding="utf-8"))
        if loaded := FORBIDDEN & set(reports[graph]["modules"]):
            raise ExportError(f"the serving process imported {', '.join(sorted(loaded))}")
        out.unlink()
    return reports


def _pytorch(checkpoint: Path, data: Path) -> tuple[list[TaskResult], float]:
    from lame_runtime.retrieval import embed_rows, evaluate, read_rows, tasks
    from lame_training.torch_backend import load_encoder

    encoder = load_encoder(checkpoint)
    rows = {task: read_rows(data, task) for task in tasks(data)}
    began = time.perf_counter()
    vectors = embed_rows(lambda items, role: encoder.encode(items, role=role), rows)
    return evaluate(rows, vectors), 1000 * (time.perf_counter() - began) / len(vectors)


def cosines(rows: list[Result], graph: str) -> tuple[float, float]:
    """Mean and smallest cosine of a graph to PyTorch over all golden inputs."""
    found = [row for row in rows if row.graph == graph and row.comparison.startswith("graph vs PyTorch")]
    total = sum(row.inputs for row in found)
    return sum(row.inputs * row.figure["mean_cosine"] for row in found) / total, min(row.figure["min_cosine"] for row in found)


def results_table(shown: Shown) -> Table:
    """hit@1 per task and graph beside PyTorch's, cosine to PyTorch, milliseconds per item, size."""
    table = Table(title="hit@1 on held-out digits")
    table.add_column("task")
    for name in ("chance", "PyTorch", *shown.graphs):
        table.add_column(name, justify="right")
    for result in shown.pytorch:
        found = [f"{report['tasks'][result.task]['hit@1']:.3f}" for report in shown.graphs.values()]
        table.add_row(result.task, f"{result.chance:.3f}", f"{result.hit_at_1:.3f}", *found)
    table.add_section()
    both = {graph: cosines(shown.rows, graph) for graph in shown.graphs}
    table.add_row("mean cosine", "", "1", *(f"{both[graph][0]:.5f}" for graph in shown.graphs))
    table.add_row("min cosine", "", "1", *(f"{both[graph][1]:.5f}" for graph in shown.graphs))
    table.add_row("ms per input", "", f"{shown.pytorch_ms:.2f}", *(f"{report['ms_per_input']:.2f}" for report in shown.graphs.values()))
    weights = (shown.folder / "checkpoint/model.safetensors").stat().st_size
    table.add_row("size, MB", "", f"{weights / 1e6:.1f}", *(f"{shown.sizes[graph] / 1e6:.1f}" for graph in shown.graphs))
    table.caption = "fp16 and int8: cosine on the emulation; ms on this CPU, which computes them in FP32"
    return table
