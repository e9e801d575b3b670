"""`lame-train evaluate`: runs a benchmark on a checkpoint or a bundle, or compares two models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lame_runtime.cli.grammar import GRAPH_NAMES, add_command, add_output, path
from lame_runtime.cli.system.streams import print_note
from lame_runtime.errors import UsageError
from lame_runtime.options import BACKENDS, BackendName

if TYPE_CHECKING:
    from lame_training.api import Evaluation

DESCRIPTION = """Runs a benchmark on a checkpoint (PyTorch) or a bundle (ONNX Runtime or TensorRT).

Embeddings are kept in --cache, by the hash of model and input, and results in --output, by task, so
a run that was stopped can be continued. Tasks that cannot be evaluated are named, and every
mean says over how many tasks it is."""
EXAMPLE = """
lame-train evaluate runs/digits --suite digits --data runs/digits/data
lame-train evaluate runs/digits --against bundle --against-graph int8-cpu --data runs/digits/data
lame-train evaluate bundle --suite mmeb-v2 --data MMEB-V2 --output scores
"""


def add(commands: Any) -> None:
    """Declares the command."""
    parser = add_command(
        commands, "evaluate", "run a benchmark on a checkpoint or bundle", _evaluate, EXAMPLE
    )
    parser.description = DESCRIPTION
    parser.add_argument("model", type=path, help="a checkpoint or a bundle")
    # the lists of choices are the command's own: the suites' modules would import PyTorch
    parser.add_argument(
        "--suite", choices=["digits", "mmeb-v2", "mrmr"], default="digits", help="the benchmark"
    )
    parser.add_argument(
        "--data", type=path, required=True, metavar="DIR", help="root of the benchmark's data"
    )
    parser.add_argument(
        "--split", default="eval", choices=["eval", "valid"], help="split of the digits"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="tasks to run (default: all whose data exist)",
    )
    parser.add_argument(
        "--visdoc",
        default="page-fixed",
        choices=["page-fixed", "page-original"],
        help="MMEB-V2's page-level tasks, with their numbering corrected or as first published",
    )
    graphs = ", ".join(GRAPH_NAMES)
    parser.add_argument("--graph", metavar="GRAPH", help=f"graph of the bundle: {graphs}")
    parser.add_argument(
        "--backend", default="auto", choices=BACKENDS, help="what runs the graphs of a bundle"
    )
    parser.add_argument(
        "--against",
        type=path,
        metavar="MODEL",
        help="a second checkpoint or bundle: print the figures of both and their difference",
    )
    parser.add_argument(
        "--against-graph", metavar="GRAPH", help=f"graph of the second bundle: {graphs}"
    )
    add_output(
        parser, "folder of result files and of report.json in the leaderboard's form", metavar="DIR"
    )
    parser.add_argument(
        "--cache",
        type=path,
        metavar="DIR",
        help="folder of embeddings and unpacked pictures (default: OUTPUT/cache)",
    )
    parser.add_argument(
        "--name", help="the model's name in the report (default: the name of its folder)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="inputs per run of the model"
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="pixels of a picture or a video's frame after resizing (default: the contract's)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def _evaluate(options: argparse.Namespace) -> int:
    # deferred, as everything that imports PyTorch
    from lame_training.evaluation.leaderboard import compare, comparison_table, means, notes, table

    if options.against is None and options.against_graph is not None:
        raise UsageError("`against_graph` needs a second bundle: name it with `against`")
    _check_folders(options)
    first = _run(options, options.model, options.graph, options.output)
    # one or two, with the same notes and failures to print
    evaluations = [first]
    if options.against is None:
        # the digits are on no leaderboard, so its form would only bury their figures
        shown = first.report if options.suite != "digits" else _short_form(first)
        lines = [*table(first.run), *means(first.run)]
    else:
        # a folder of its own: the results of two models in one folder would replace each other
        output = options.output / "against" if options.output else None
        second = _run(options, options.against, options.against_graph, output)
        evaluations.append(second)
        shown = compare(first.run, second.run)
        lines = comparison_table(shown, (_label(first), _label(second)))
    print(json.dumps(shown, indent=2) if options.json else "\n".join(lines))
    # two runs of one suite have most notes in common
    for line in dict.fromkeys(line for outcome in evaluations for line in notes(outcome.run)):
        # stdout is the script's if it asked for JSON
        (print_note if options.json else print)(line)
    failed = {name: reason for outcome in evaluations for name, reason in outcome.failed.items()}
    # not an exception: the other tasks' results are worth showing
    for name, reason in failed.items():
        print_note(f"error: {name} was not evaluated: {reason}")
    return 2 if failed else 0


def _check_folders(options: argparse.Namespace) -> None:
    """Refuses result files in a bundle, which would no longer be the one that was exported."""
    from lame_runtime.cli.system.outputs import require_apart

    for model in filter(None, (options.model, options.against)):
        if (model / "manifest.json").is_file():
            for argument in ("output", "cache"):
                folder = getattr(options, argument)
                # a file of the folder, so that the bundle's own folder is refused, too
                require_apart({argument: folder and folder / "report.json"}, model)


def _run(
    options: argparse.Namespace, model: Path, graph: str | None, output: Path | None
) -> Evaluation:
    """Runs the suite on one of the models."""
    from lame_training.api import evaluate

    # both models share a cache: its keys hold the model's hash
    cache = options.cache or (options.output / "cache" if options.output else None)
    # in a comparison of a checkpoint with a bundle, the backend is the bundle's
    is_bundle = (model / "manifest.json").is_file()
    backend: BackendName = "auto"
    if is_bundle or options.against is None:
        backend = options.backend
    return evaluate(
        model,
        options.suite,
        options.data,
        tasks=options.tasks,
        split=options.split,
        visdoc=options.visdoc,
        graph=graph,
        backend=backend,
        output=output,
        cache=cache,
        name=options.name,
        batch_size=options.batch_size,
        max_pixels=options.max_pixels,
    )


def _label(evaluation: Evaluation) -> str:
    """Returns the heading of a model's column."""
    metadata = evaluation.report["metadata"]
    return f"{metadata['model_name']} {metadata['graph']}"


def _short_form(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the results on the digits by task, without the leaderboard's form."""
    results = {name: outcome.result for name, outcome in evaluation.run.outcomes.items()}
    return {
        name: {
            "hit@1": result["hit@1"],
            "chance": result["run"]["chance"],
            "queries": result["num_pred"],
        }
        for name, result in results.items()
    }
