"""`lame-train probe`: measures whether a checkpoint uses its reason tokens."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli.grammar import add_command, path

DESCRIPTION = """Measures whether a checkpoint uses its reason tokens, task by task, on the digits.

hit@1 is measured as it is, with each query's reason tokens swapped for another query's, and with
the reason tokens dropped. L_rec is measured from each sample's own latent states and another's."""
EXAMPLE = """
lame-train probe runs/digits runs/digits/data
lame-train probe runs/digits runs/digits/data --task sum2 --task find2 --split valid
"""
TASKS = ("digit", "sum2", "find2", "same2")
"""Tasks that are probed by default; the study has the same list, but imports PyTorch."""


def add(commands: Any) -> None:
    """Declares the command."""
    parser = add_command(
        commands, "probe", "measure whether a checkpoint uses its reason tokens", _probe, EXAMPLE
    )
    parser.description = DESCRIPTION
    parser.add_argument("checkpoint", type=path, help="a checkpoint with reason tokens")
    parser.add_argument("data", type=path, help="root of the digits data set")
    parser.add_argument(
        "--task",
        action="append",
        metavar="TASK",
        help=f"a task of the data, may be repeated (default: {', '.join(TASKS)})",
    )
    parser.add_argument("--split", default="eval", choices=["eval", "valid"], help="split to use")


def _probe(options: argparse.Namespace) -> int:
    from lame_training.studies.probe_reason_tokens import HEADER, RULE, probe

    # Markdown, to be pasted into LOG.md; row by row, because a task takes a while
    print(f"{HEADER}\n{RULE}")
    for row in probe(options.checkpoint, options.data, options.task or TASKS, options.split):
        print(row.markdown())
    return 0
