"""`lame-train run`: trains a recipe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lame_runtime.cli.grammar import add_command, add_output, path
from lame_runtime.errors import UsageError

from lame_training.published.forms.published_forms import FORMS

if TYPE_CHECKING:
    from lame_training.run.train_options import TrainOptions

EXAMPLE = """
lame-train run digits --output runs/digits
lame-train run lame-qwen2-vl-2b --dry-run
lame-train run lame-qwen2-vl-2b --backbone Qwen2-VL-2B-Instruct --data MMEB --output runs/own
torchrun --nproc-per-node 8 -m lame_training run … --shard
"""
RECIPE_NAMES = (
    "digits",
    "digits-k0",
    "digits-no-rec",
    "digits-tiny",
    "lame-qwen2-vl-2b",
    "lame-qwen2.5-vl-3b",
    "lame-qwen2-vl-7b",
    "lame-qwen3-vl-8b",
)
"""Names for the help; the catalog has them as well, but imports PyTorch."""


def add(commands: Any) -> None:
    """Declares the command."""
    parser = add_command(
        commands, "run", "train a recipe in its stages and write a checkpoint", _run, EXAMPLE
    )
    parser.add_argument(
        "recipe",
        help=f"name of a recipe: {', '.join(RECIPE_NAMES)}; "
        "the last four also with -lora at the end",
    )
    add_output(parser, "folder of the checkpoint; everything but --dry-run needs it", metavar="DIR")
    parser.add_argument(
        "--data",
        type=path,
        metavar="DIR",
        help="root of the training data (default: the digits, written to OUTPUT/data)",
    )
    parser.add_argument(
        "--mixture",
        type=path,
        metavar="FILE",
        help="YAML file that lists the data sets (default: the recipe's, or those found in --data)",
    )
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="follow paths and links of the data that lead out of --data",
    )
    parser.add_argument(
        "--backbone",
        type=path,
        metavar="DIR",
        help="local save_pretrained folder of Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3-VL-MoE, "
        "or a PEFT adapter of one (default: random weights, if the recipe has a shape for them)",
    )
    _add_kept(parser)
    parser.add_argument(
        "--decoder",
        type=path,
        metavar="DIR",
        help="local folder of the latent decoder, such as Qwen3-0.6B (default: random weights)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="stop after N steps in all; 0 writes the initialized model (default: all stages)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed (default: the recipe's)")
    parser.add_argument(
        "--matryoshka",
        type=int,
        nargs="+",
        metavar="N",
        help="lengths of the vector's prefixes that L_nce is also computed on "
        "(default: the recipe's)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest state in OUTPUT"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be trained, how large it is and how much memory it takes",
    )
    _add_execution(parser)


def _add_kept(parser: argparse.ArgumentParser) -> None:
    """Adds the options about what is kept of a published embedder."""
    parser.add_argument(
        "--prompt",
        choices=["recipe", "published"],
        default="recipe",
        help="published keeps prompt and instructions of the published embedder in --backbone "
        "(default: recipe, what its chat template prints)",
    )
    parser.add_argument(
        "--pooling",
        choices=["recipe", "published"],
        default="recipe",
        help="published makes [EMBED] start as the token that the published embedder pools, and "
        "keeps its head; needs --prompt published (default: recipe)",
    )
    parser.add_argument(
        "--form",
        metavar="NAME",
        help="form of a published embedder that is not a Sentence Transformers folder: "
        + ", ".join(FORMS),
    )


def _add_execution(parser: argparse.ArgumentParser) -> None:
    """Adds the options that do not change what is trained."""
    group = parser.add_argument_group("execution")
    group.add_argument(
        "--save-every",
        type=int,
        metavar="N",
        help="steps between two states to resume from (default: the recipe's)",
    )
    group.add_argument("--keep", type=int, default=1, metavar="N", help="number of states to keep")
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that prepare pictures as the model runs (default: 8 with a GPU, 0 without)",
    )
    # without the option a GPU is taken if there is one, so "cuda" would say nothing
    group.add_argument(
        "--device", choices=["cpu"], help="cpu leaves a GPU unused (default: a GPU if there is one)"
    )
    group.add_argument(
        "--shard",
        action="store_true",
        help="spread the parameters over the processes that torchrun started (FSDP2)",
    )


def _run(options: argparse.Namespace) -> int:
    _check_mixture(options)
    # deferred, so that `--help` and a mistyped option answer at once
    from tqdm.contrib.logging import logging_redirect_tqdm

    from lame_training.distributed.processes import ProcessGroup
    from lame_training.recipes.catalog import find_recipe
    from lame_training.run.dry_run.description import describe
    from lame_training.run.train import train_recipe

    # not `choices` of the parser: the catalog's error is one line, argparse's is a page
    recipe = find_recipe(options.recipe)
    train_options = _train_options(options)
    if options.dry_run:
        print(describe(recipe, options.data, train_options))
        return 0
    # not required by the parser, because a dry run writes nothing
    if options.output is None:
        raise UsageError("`output` is missing: name the folder for the checkpoint")
    # made here rather than by `lame_training.train`, so that it can be closed
    processes = ProcessGroup(train_options.device)
    # warnings about rows appear above the progress bar instead of inside it
    with logging_redirect_tqdm():
        left_out = train_recipe(recipe, options.data, options.output, train_options, processes)
    # torchrun shows the output of all processes
    if processes.is_main_process:
        if left_out:
            counts = ", ".join(f"{count} of {name}" for name, count in sorted(left_out.items()))
            print(f"left out: {counts}; see {options.output / 'skipped.jsonl'}")
        print(f"wrote {options.output}")
    # PyTorch warns at exit if it is left open
    processes.close()
    return 0


def _check_mixture(options: argparse.Namespace) -> None:
    """Refuses a mixture with a mistake before PyTorch is imported, which takes seconds."""
    from lame_training.data import read_mixture

    # what a shell hands over as `<(…)` can be read only once
    if options.mixture is not None and options.data is not None and options.mixture.is_file():
        read_mixture(options.mixture, options.data, allow_outside=options.allow_outside)


def _train_options(options: argparse.Namespace) -> TrainOptions:
    # deferred: the module imports the recipes, and they PyTorch
    from lame_training.run.train_options import TrainOptions

    # without `progress`: a person at the command line always sees the bar
    return TrainOptions(
        backbone=options.backbone,
        prompt=options.prompt,
        pooling=options.pooling,
        form=options.form,
        decoder=options.decoder,
        mixture=options.mixture,
        allow_outside=options.allow_outside,
        steps=options.steps,
        seed=options.seed,
        matryoshka=options.matryoshka,
        resume=options.resume,
        save_every=options.save_every,
        keep=options.keep,
        threads=options.threads,
        device=options.device,
        shard=options.shard,
    )
