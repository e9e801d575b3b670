"""`lame-train paradigms`: what one embedding costs in each of the four paradigms."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from lame_runtime.cli import path
from lame_runtime.errors import InputError

if TYPE_CHECKING:
    from lame_training.paradigms.report import Report
    from lame_training.paradigms.run import Setup

MINIMA = {"tokens": 1, "latent_steps": 1, "inputs": 1, "warmup": 1, "draws": 1, "threads": 1}


def add(commands: Any) -> None:
    """Declares the command."""
    command = commands.add_parser(
        "paradigms",
        help="time LaME against discriminative, latent rollout and explicit CoT",
        description="Measures the four paradigms on one backbone in one run, by PLUME's protocol. Random weights serve: time does not "
        "depend on their values. Defaults in brackets: on a CPU, on a GPU.",
    )
    model = command.add_mutually_exclusive_group()
    model.add_argument("--backbone", type=path, metavar="DIR", help="a local save_pretrained folder in place of random weights")
    model.add_argument("--shape", choices=["reduced", "2b", "3b", "7b", "8b"], help="[reduced, 2b]")
    command.add_argument("--family", choices=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"], default="qwen2_vl", help="of --shape")
    command.add_argument("--device", choices=["cpu", "cuda"], help="[a GPU where there is one]")
    command.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="[float32, bfloat16]")
    command.add_argument("--threads", type=int, help="of the CPU [torch's choice]")
    command.add_argument("--compile", action=argparse.BooleanOptionalAction, help="run the blocks through torch.compile [no, yes]")
    command.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], metavar="B")
    command.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024], metavar="L", help="prompt lengths in positions")
    command.add_argument("--tokens", type=int, default=403, help="of the explicit chain of thought")
    command.add_argument("--latent-steps", type=int, default=8, help="of the latent rollout")
    command.add_argument("--inputs", type=int, help="per draw, rounded up to whole batches [1, 500]")
    command.add_argument("--warmup", type=int, help="batches before the first draw [1, 20]")
    command.add_argument("--draws", type=int, help="[3, 5]")
    command.add_argument("--modality", choices=["text", "image+text"], default="text", help="a picture fills half of the prompt")
    command.add_argument("--out", type=path, metavar="DIR", help="where paradigms.json (after every cell), .md and .png go")
    command.add_argument("--resume", action="store_true", help="keep the cells that OUT holds")
    command.add_argument("--check", action="store_true", help="exit with 1 where a goal is not met")
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.set_defaults(run=_paradigms)


def _paradigms(options: argparse.Namespace) -> int:
    for name, least in MINIMA.items():
        if (value := getattr(options, name)) is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} {value}: use {least} or more")
    for name in ("batch_sizes", "lengths"):
        if min(getattr(options, name)) < 1:
            raise InputError(f"--{name.replace('_', '-')} {min(getattr(options, name))}: use 1 or more")
    if options.resume and options.out is None:
        raise InputError("--resume: name the folder to continue with --out")
    from lame_training.paradigms.goals import goals
    from lame_training.paradigms.run import Run

    run = Run(_setup(options), options.out, resume=options.resume)
    try:
        run.measure()
    finally:  # ctrl-C leaves what was measured
        _show(run.report, options)
    return int(options.check and not all(goal.met for goal in goals(run.report.cells, run.report.settings["n_reason"])))


def _setup(options: argparse.Namespace) -> Setup:
    """The flags, and the defaults of the device for those that were left out."""
    import torch

    from lame_training.paradigms.measure import Protocol
    from lame_training.paradigms.run import Setup

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device == "cuda"
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return Setup(
        options.backbone,
        options.shape or ("2b" if gpu else "reduced"),
        options.family,
        torch.device(device),
        getattr(torch, options.dtype or ("bfloat16" if gpu else "float32")),
        gpu if options.compile is None else options.compile,
        Protocol(
            tuple(sorted(set(options.batch_sizes))),
            tuple(sorted(set(options.lengths))),
            options.tokens,
            options.latent_steps,
            options.inputs or (500 if gpu else 1),
            options.warmup or (20 if gpu else 1),
            options.draws or (5 if gpu else 3),
            options.modality,
        ),
    )


def _show(report: Report, options: argparse.Namespace) -> None:
    """Writes what belongs into the folder, and prints the tables or the data."""
    from rich.console import Console

    if options.out is not None and report.cells:
        report.write(options.out)
    if options.json:
        print(report.as_json(), end="")
    elif report.cells:
        report.print(Console(width=None if sys.stdout.isatty() else 120))
