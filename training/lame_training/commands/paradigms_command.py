"""`lame-train paradigms`: times LaME against three other ways to embed, on one backbone."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from lame_runtime.cli.grammar import add_command, add_output, path
from lame_runtime.errors import UsageError

if TYPE_CHECKING:
    from lame_training.studies.paradigms.benchmark import Setup
    from lame_training.studies.paradigms.report import Report

DESCRIPTION = """Times four ways to embed an input, by PLUME's protocol, on one backbone in one run:
LaME, a plain embedder (discriminative), latent rollout, and an explicit chain of thought (CoT).

Random weights serve, because time does not depend on their values. Two defaults, such as "1, 500",
are those on a CPU and on a GPU."""
EXAMPLE = """
lame-train paradigms --output runs/paradigms
lame-train paradigms --backbone Qwen2-VL-2B-Instruct --batch-sizes 1 8 --output runs/2b
"""
COUNTS = ("tokens", "latent_steps", "inputs", "warmup", "draws", "threads")
"""Options that must be 1 or more; those that were left out are None."""


def add(commands: Any) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "paradigms",
        "time LaME against a plain embedder, latent rollout and explicit CoT",
        _paradigms,
        EXAMPLE,
    )
    parser.description = DESCRIPTION
    _add_model(parser)
    _add_protocol(parser)
    add_output(
        parser,
        "folder of paradigms.json (written after every measurement), .md and .png",
        metavar="DIR",
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the measurements that OUTPUT holds"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a goal for the ratios is not met"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what runs, and where."""
    group = parser.add_argument_group("model")
    # a folder brings its own shape
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--backbone",
        type=path,
        metavar="DIR",
        help="local save_pretrained folder (default: random weights)",
    )
    source.add_argument(
        "--shape",
        choices=["reduced", "2b", "3b", "7b", "8b"],
        help="shape of the random weights (default: reduced, 2b)",
    )
    group.add_argument(
        "--family",
        choices=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"],
        default="qwen2_vl",
        help="family of --shape",
    )
    group.add_argument(
        "--device", choices=["cpu", "cuda"], help="device (default: a GPU if there is one)"
    )
    group.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="type of the weights (default: float32, bfloat16)",
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's choice)"
    )
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="run the blocks through torch.compile (default: no, yes)",
    )


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what is measured, and how often."""
    group = parser.add_argument_group("protocol")
    group.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 8, 32], metavar="B", help="batch sizes"
    )
    group.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=[64, 256, 1024],
        metavar="L",
        help="prompt lengths in positions",
    )
    group.add_argument(
        "--tokens", type=int, default=403, metavar="N", help="tokens of the chain of thought"
    )
    group.add_argument(
        "--latent-steps", type=int, default=8, metavar="N", help="steps of the latent rollout"
    )
    group.add_argument(
        "--inputs",
        type=int,
        metavar="N",
        help="inputs per draw, rounded up to whole batches (default: 1, 500)",
    )
    group.add_argument(
        "--warmup", type=int, metavar="N", help="batches before the first draw (default: 1, 20)"
    )
    group.add_argument(
        "--draws", type=int, metavar="N", help="draws, of which the median counts (default: 3, 5)"
    )
    group.add_argument(
        "--modality",
        choices=["text", "image+text"],
        default="text",
        help="kind of prompt; a picture fills half of it",
    )


def _paradigms(options: argparse.Namespace) -> int:
    # before PyTorch is imported
    _check(options)
    from lame_training.folder_lock import locked_folder
    from lame_training.studies.paradigms.benchmark import Run
    from lame_training.studies.paradigms.goals import goals

    output = options.output
    # two measurements in one folder would lose each other's cells
    with nullcontext() if output is None else locked_folder(output, "measurement"):
        run = Run(_setup(options), output, resume=options.resume)
        try:
            run.measure()
        finally:
            # after ctrl-C, what was measured until then is shown and written
            _show(run.report, options)
    # all goals are evaluated, as the table shows them, before the exit code is known
    met = [goal.met for goal in goals(run.report.cells, run.report.settings["n_reason"])]
    return int(options.check and not all(met))


def _check(options: argparse.Namespace) -> None:
    """Refuses a call that can only fail, before anything is loaded."""
    # of a list, the smallest value decides
    smallest = {name: getattr(options, name) for name in COUNTS}
    smallest |= {name: min(getattr(options, name)) for name in ("batch_sizes", "lengths")}
    for name, value in smallest.items():
        if value is not None and value < 1:
            raise UsageError(f"`{name}` is {value}: use 1 or more")
    if options.resume and options.output is None:
        raise UsageError("`resume` needs `output`: name the folder to continue with it")


def _setup(options: argparse.Namespace) -> Setup:
    """Returns what the options say, with the device's defaults for those that were left out."""
    import torch

    from lame_training.studies.paradigms.benchmark import Setup
    from lame_training.studies.paradigms.measure import Protocol

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device == "cuda"
    # for the whole process: PyTorch has no narrower setting
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return Setup(
        backbone=options.backbone,
        shape=options.shape or ("2b" if gpu else "reduced"),
        family=options.family,
        device=torch.device(device),
        dtype=getattr(torch, options.dtype or ("bfloat16" if gpu else "float32")),
        compiled=gpu if options.compile is None else options.compile,
        protocol=Protocol(
            # small ones first, whatever the order they were given in
            batch_sizes=tuple(sorted(set(options.batch_sizes))),
            lengths=tuple(sorted(set(options.lengths))),
            tokens=options.tokens,
            latent_steps=options.latent_steps,
            # a CPU takes seconds for what a GPU does in milliseconds
            inputs=options.inputs or (500 if gpu else 1),
            warmup=options.warmup or (20 if gpu else 1),
            draws=options.draws or (5 if gpu else 3),
            modality=options.modality,
        ),
    )


def _show(report: Report, options: argparse.Namespace) -> None:
    """Writes the report into the output folder, and prints its tables or its JSON."""
    from rich.console import Console

    # ctrl-C before the first measurement leaves nothing to write
    if options.output is not None and report.cells:
        report.write(options.output)
    if options.json:
        print(report.as_json(), end="")
    elif report.cells:
        # in a pipe, rich would take the width for 80 and wrap the tables
        report.print(Console(width=None if sys.stdout.isatty() else 120))
