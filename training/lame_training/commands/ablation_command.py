"""`lame-train ablation`: trains every arm of the ablation and writes a table and a plot."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli.grammar import add_command, path
from lame_runtime.errors import UsageError

DESCRIPTION = """Trains the arms of the ablation on digits, each for as long as the others.

It writes OUT/report.md and OUT/ablation.png. A finished trial is not repeated: stop at any time,
and run the same command to go on."""
EXAMPLE = """
lame-train ablation runs/ablation --processes 2
lame-train ablation runs/ablation --arms k8 k0 --seeds 1
"""


def add(commands: Any) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "ablation",
        "measure what reason tokens and L_rec contribute",
        _ablation,
        EXAMPLE,
    )
    parser.description = DESCRIPTION
    parser.add_argument("out", type=path, metavar="OUT", help="folder of trials, table and plot")
    parser.add_argument(
        "--data",
        type=path,
        metavar="DIR",
        help="folder that lame-train digits --reasoning wrote "
        "(default: OUT/data, written if missing)",
    )
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="arms to train (default: all)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trials of each arm")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="trials that run at the same time"
    )


def _ablation(options: argparse.Namespace) -> int:
    # deferred: the trials import PyTorch, and the report matplotlib
    from lame_training.folder_lock import locked_folder
    from lame_training.studies.ablation.ablation_report import write_report
    from lame_training.studies.ablation.ablation_runner import arms_of, run
    from lame_training.studies.digit_rows import write_reasoning

    # range(0) would be an ablation without trials, and an empty report
    for name in ("seeds", "processes"):
        if getattr(options, name) < 1:
            raise UsageError(f"`{name}` is {getattr(options, name)}: use 1 or more")
    # an unknown arm is refused before the data is written
    arms = arms_of(options.arms)
    data = options.data or options.out / "data"
    # two ablations in one folder would run the same trials
    with locked_folder(options.out, "ablation", "out"):
        if options.data is None and not data.is_dir():
            write_reasoning(data)
        # takes hours, and writes every trial when it is finished
        run(options.out, data, arms, options.seeds, options.processes)
        print(write_report(options.out))
    return 0
