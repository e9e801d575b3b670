"""`lame-train ablation`: does latent reasoning do anything? Trains every arm and writes a table and a plot."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli import path
from lame_runtime.errors import InputError


def add(commands: Any) -> None:
    """Declares the command."""
    ablation = commands.add_parser(
        "ablation",
        help="what reason tokens and L_rec are good for",
        description="Trains the arms of the ablation on digits, as long as one another, and writes OUT/report.md and OUT/ablation.png. "
        "A finished trial is not repeated: stop at any time and start again.",
    )
    ablation.add_argument("out", type=path)
    ablation.add_argument("--data", type=path, help="what lame-train digits --reasoning wrote; without it OUT/data is written")
    ablation.add_argument("--arms", nargs="+", metavar="ARM", help="some of the arms; without it all")
    ablation.add_argument("--seeds", type=int, default=3)
    ablation.add_argument("--processes", type=int, default=1, help="trials at a time")
    ablation.set_defaults(run=_ablation)


def _ablation(options: argparse.Namespace) -> int:
    from lame_training.ablation.report import write_report
    from lame_training.ablation.runner import arms_of, run
    from lame_training.reasoning import write_reasoning

    for name in ("seeds", "processes"):
        if getattr(options, name) <= 0:
            raise InputError(f"--{name} {getattr(options, name):g}: use more than 0")
    arms = arms_of(options.arms)
    data = options.data or options.out / "data"
    if options.data is None and not data.is_dir():
        write_reasoning(data)
    run(options.out, data, arms, options.seeds, options.processes)
    print(write_report(options.out))
    return 0
