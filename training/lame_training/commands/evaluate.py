"""`lame-train evaluate`: how well a checkpoint or a bundle retrieves."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lame_runtime.cli import path


def add(commands: Any) -> None:
    """Declares the command."""
    evaluate = commands.add_parser("evaluate", help="hit@1 of a checkpoint or bundle")
    evaluate.add_argument("model", type=path, help="a checkpoint or a bundle")
    evaluate.add_argument("--suite", choices=["digits"], default="digits")
    evaluate.add_argument("--data", type=path, required=True, help="root of the data")
    evaluate.add_argument("--split", default="eval", choices=["eval", "valid"])
    evaluate.add_argument("--json", action="store_true", help="machine-readable output")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from lame_training.evaluate import evaluate_model, open_encoder

    with open_encoder(options.model) as encoder:
        results = evaluate_model(encoder, options.data, options.split)
    if options.json:
        print(json.dumps({r.task: {"hit@1": r.hit_at_1, "chance": r.chance, "queries": len(r.ranks)} for r in results}, indent=2))
        return 0
    print(f"{'task':12} {'hit@1':>7} {'chance':>7} {'queries':>8}")
    for r in results:
        print(f"{r.task:12} {r.hit_at_1:7.3f} {r.chance:7.3f} {len(r.ranks):8}")
    return 0
