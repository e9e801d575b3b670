"""`lame-train evaluate`: how well a checkpoint or a bundle retrieves, and what an export has cost."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lame_runtime.cli import path
from lame_runtime.errors import InputError

if TYPE_CHECKING:
    from lame_training.suites.run import SuiteRun

DESCRIPTION = """Runs an evaluation suite on a checkpoint (PyTorch) or a bundle (ONNX Runtime). Embeddings are kept in --cache by the
hash of model and input and results in --out by task, so a run that was stopped goes on where it was. Tasks that cannot be
evaluated are named; the means say over how many tasks they are."""


def add(commands: Any) -> None:
    """Declares the command."""
    evaluate = commands.add_parser("evaluate", help="run an evaluation suite on a checkpoint or bundle", description=DESCRIPTION)
    evaluate.add_argument("model", type=path, help="a checkpoint or a bundle")
    evaluate.add_argument("--suite", choices=["digits", "mmeb-v2", "mrmr"], default="digits")
    evaluate.add_argument("--data", type=path, required=True, help="root of the data")
    evaluate.add_argument("--split", default="eval", choices=["eval", "valid"], help="of the digits")
    evaluate.add_argument("--tasks", nargs="+", metavar="TASK", help="run these only")
    evaluate.add_argument(
        "--visdoc", default="page-fixed", choices=["page-fixed", "page-original"], help="MMEB-V2's page-level tasks, corrected or not"
    )
    evaluate.add_argument("--graph", help="which of a bundle's graphs")
    evaluate.add_argument("--against", type=path, metavar="MODEL", help="a second checkpoint or bundle; prints both and the difference")
    evaluate.add_argument("--against-graph", metavar="GRAPH", help="which of the second bundle's graphs")
    evaluate.add_argument("--out", type=path, metavar="DIR", help="result files, and report.json in the leaderboard's form")
    evaluate.add_argument("--cache", type=path, metavar="DIR", help="embeddings and unpacked pictures; by default OUT/cache")
    evaluate.add_argument("--name", help="the model's name in the report; by default its folder's")
    evaluate.add_argument("--batch-size", type=int, default=32, metavar="N")
    evaluate.add_argument("--max-pixels", type=int, metavar="N", help="of a picture or frame, instead of the contract's")
    evaluate.add_argument("--json", action="store_true", help="machine-readable output")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from lame_training.suites.report import compare, comparison_table, means, notes, table

    if options.against is None and options.against_graph is not None:
        raise InputError("--against-graph needs a second bundle: name it with --against")
    run, report = _run(options, options.model, options.graph, options.out)
    runs = [run]
    if options.against is None:
        shown = report if options.suite != "digits" else _digits(run)
        lines = [*table(run), *means(run)]
    else:
        out = options.out / "against" if options.out else None
        other, second = _run(options, options.against, options.against_graph, out)
        runs.append(other)
        shown = compare(run, other)
        lines = [*comparison_table(shown, (_label(report), _label(second)))]
    print(json.dumps(shown, indent=2) if options.json else "\n".join(lines))
    for line in dict.fromkeys(line for each in runs for line in notes(each)):
        print(line, file=sys.stderr if options.json else sys.stdout)
    failed = {name: reason for each in runs for name, reason in each.failed.items()}
    for name, reason in failed.items():
        print(f"error: {name} was not evaluated: {reason}", file=sys.stderr)
    return 2 if failed else 0


def _label(report: dict[str, Any]) -> str:
    return f"{report['metadata']['model_name']} {report['metadata']['graph']}"


def _run(options: argparse.Namespace, model: Path, graph: str | None, out: Path | None) -> tuple[SuiteRun, dict[str, Any]]:
    """Runs the suite on one model and writes its report."""
    import tempfile

    from lame_runtime.atomic import atomic_text

    from lame_training.evaluate import find_suite, open_encoder
    from lame_training.suites.identity import model_identity
    from lame_training.suites.report import leaderboard_report
    from lame_training.suites.run import run_suite

    cache = options.cache or (options.out / "cache" if options.out else None)
    with open_encoder(model, graph) as encoder, tempfile.TemporaryDirectory() as scratch:
        suite = find_suite(options.suite, options.data, split=options.split, visdoc=options.visdoc)
        identity = model_identity(model, encoder.graph, encoder.backend.name)
        run = run_suite(
            suite,
            options.data,
            encoder,
            identity,
            cache=cache or Path(scratch),
            keep_embeddings=cache is not None,
            out=out,
            names=options.tasks,
            batch_size=options.batch_size,
            max_pixels=options.max_pixels,
        )
        report = leaderboard_report(run, encoder, options.name or model.resolve().name)
    if out is not None:
        atomic_text(out / "report.json", json.dumps(report, indent=2) + "\n")
    return run, report


def _digits(run: SuiteRun) -> dict[str, Any]:
    """The digits' short form."""
    results = {name: outcome.result for name, outcome in run.outcomes.items()}
    return {
        name: {"hit@1": result["hit@1"], "chance": result["run"]["chance"], "queries": result["num_pred"]}
        for name, result in results.items()
    }
