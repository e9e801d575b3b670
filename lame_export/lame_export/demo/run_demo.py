"""Runs the whole pipeline on handwritten digits: data, training, export, search and a page."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.certificate import PassCost, read_certificate
from lame_runtime.errors import StorageError, UsageError, shown
from lame_runtime.files.atomic import atomic_text
from lame_runtime.files.json_file import read_json
from lame_training.evaluation.retrieval import (
    TaskResult,
    embed_rows,
    evaluate,
    read_rows,
    tasks,
)
from rich.console import Console
from rich.table import Table

from lame_export.demo.outcome import DemoOutcome, cosines
from lame_export.demo.page import write_page
from lame_export.demo.torch_free_search import SearchReport, search
from lame_export.plan import PLAN, export
from lame_export.state import DEFAULT_GRAPHS

T = TypeVar("T")


def run_demo(
    folder: Path, recipe_name: str = "digits", console: Console | None = None
) -> DemoOutcome:
    """Writes FOLDER/data, FOLDER/checkpoint, FOLDER/bundle and FOLDER/index.html.

    Parts that are complete are kept, so a demo that was stopped can be continued.

    Args:
        folder: the folder of everything.
        recipe_name: a recipe on the digits data, such as "digits-tiny".
        console: console for progress and the table; None writes to stdout.

    Raises:
        ExportError: a gate is not met, or embedding fails without PyTorch.
        UsageError: the folder holds the demo of another recipe, or the recipe does not exist.
        StorageError: the folder cannot be written.
    """
    console = console or Console()
    data, checkpoint, bundle = folder / "data", folder / "checkpoint", folder / "bundle"
    _claim(folder, recipe_name)
    _step(console, "1/5 data", _write_data, data, recipe_name)
    _step(console, "2/5 training", _train, data, checkpoint, bundle, recipe_name)
    _step(console, "3/5 export and certificate", _export, console, checkpoint, bundle, data)
    reports = _step(console, "4/5 search, in processes without PyTorch", _search, bundle, data)
    pytorch, pytorch_ms = _step(console, "5/5 PyTorch, for comparison", _pytorch, checkpoint, data)
    opened = Bundle.open(bundle)
    sizes = {graph: opened.size(graph) for graph in opened.graphs}
    rows = read_certificate(bundle).rows
    outcome = DemoOutcome(folder, pytorch, pytorch_ms, reports, rows, sizes)
    console.print(results_table(outcome))
    write_page(outcome, folder / "index.html")
    console.print(f"wrote {folder / 'index.html'}: open it in a browser")
    return outcome


def results_table(outcome: DemoOutcome) -> Table:
    """Returns a table of hit@1, cosine to PyTorch, milliseconds and size, one column per graph."""
    graphs, reports = list(outcome.reports), outcome.reports
    table = Table(title="hit@1 on held-out digits")
    table.add_column("task")
    for name in ("chance", "PyTorch", *graphs):
        table.add_column(name, justify="right")
    for result in outcome.pytorch:
        hits = [f"{reports[graph].tasks[result.task].hit_at_1:.3f}" for graph in graphs]
        table.add_row(result.task, f"{result.chance:.3f}", f"{result.hit_at_1:.3f}", *hits)
    table.add_section()
    means, smallest = zip(*(cosines(outcome.rows, graph) for graph in graphs), strict=True)
    table.add_row("mean cosine", "", "1", *(f"{cosine:.5f}" for cosine in means))
    table.add_row("min cosine", "", "1", *(f"{cosine:.5f}" for cosine in smallest))
    speeds = [f"{reports[graph].ms_per_input:.2f}" for graph in graphs]
    table.add_row("ms per input", "", f"{outcome.pytorch_ms:.2f}", *speeds)
    # PyTorch's size is that of the checkpoint's weights
    weights = (outcome.folder / "checkpoint/model.safetensors").stat().st_size
    megabytes = [f"{outcome.sizes[graph] / 1e6:.1f}" for graph in graphs]
    table.add_row("size, MB", "", f"{weights / 1e6:.1f}", *megabytes)
    table.caption = (
        "fp16 and int8: cosine on the emulation; ms on this CPU, which computes them in FP32"
    )
    return table


def _step(console: Console, title: str, work: Callable[..., T], *arguments: Any) -> T:
    start = time.perf_counter()
    console.print(f"[bold]{title}")
    result = work(*arguments)
    console.print(f"  done in {time.perf_counter() - start:.0f} s")
    return result


def _claim(folder: Path, recipe_name: str) -> None:
    """Marks the folder as the demo of one recipe.

    Without the mark, a second recipe would reuse the checkpoint of the first.
    """
    from lame_training.recipes.catalog import find_recipe

    # checked first, so that an unknown recipe leaves no folder
    find_recipe(recipe_name)
    mark = folder / "demo.json"
    if os.path.lexists(mark):
        owner = _owner(mark)
        if owner != recipe_name:
            raise UsageError(
                f"{folder}: holds the demo of recipe {shown(owner)}; choose another folder"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be made ({error.strerror}); choose another folder"
        ) from None
    atomic_text(mark, json.dumps({"recipe": recipe_name}) + "\n")


def _owner(mark: Path) -> str:
    """Returns the recipe of a demo; raises `StorageError` if its file names none."""
    try:
        return str(read_json(mark, 1 << 16)["recipe"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it names no recipe"
        raise StorageError(
            f"{mark}: cannot be read ({reason}); remove it, or choose another folder"
        ) from None


def _write_data(data: Path, recipe_name: str) -> None:
    from lame_training.data.digits import FULL, TINY, write_digits

    # written atomically, so a folder that exists is complete
    if not data.is_dir():
        write_digits(data, TINY if recipe_name.endswith("-tiny") else FULL)


def _train(data: Path, checkpoint: Path, bundle: Path, recipe_name: str) -> None:
    from lame_training import train

    if not (checkpoint / "config.json").is_file():
        # an existing bundle belongs to an earlier checkpoint
        shutil.rmtree(bundle, ignore_errors=True)
        # the recipe is written first and the configuration last: between them, training resumes
        resume = (checkpoint / "recipe.json").is_file()
        train(recipe_name, data, checkpoint, resume=resume)


def _export(console: Console, checkpoint: Path, bundle: Path, data: Path) -> None:
    # the export renames the folder at its end, so a bundle that exists is complete
    if bundle.is_dir():
        return
    names = [step.name for step in PLAN]
    with console.status("") as status:

        def show(name: str, _: PassCost | None) -> None:
            status.update(f"pass {name} ({names.index(name) + 1} of {len(names)})")

        export(checkpoint, bundle, data, on_pass=show)


def _search(bundle: Path, data: Path) -> dict[str, SearchReport]:
    # one after the other, so that they do not compete for the CPU's cores
    return {graph: search(bundle, data, graph) for graph in DEFAULT_GRAPHS}


def _pytorch(checkpoint: Path, data: Path) -> tuple[list[TaskResult], float]:
    """Returns the checkpoint's retrieval results, and its milliseconds per input."""
    from lame_training.model.torch_backend import load_encoder

    encoder = load_encoder(checkpoint)
    rows = {task: read_rows(data, task) for task in tasks(data)}
    # loading is not measured, as for the graphs
    start = time.perf_counter()
    vectors = embed_rows(lambda items, role: encoder.encode(items, role=role), rows)
    return evaluate(rows, vectors), 1000 * (time.perf_counter() - start) / len(vectors)
