"""`lame-train`: run a recipe, evaluate what came out."""

from __future__ import annotations

import argparse
import json
import sys

from lame_runtime.cli import path, run_command
from lame_runtime.errors import InputError

from lame_training import __version__


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 done, 1 a check failed, 2 wrong use or bad input)."""
    return run_command(_parser(), arguments, "what was complete is kept; lame-train run … --resume continues it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lame-train", description="Trains and evaluates LaME models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train a recipe", description="Trains a recipe in its two stages and writes a checkpoint.")
    run.add_argument("recipe", help="name of a recipe, such as digits")
    run.add_argument("--out", type=path, required=True, help="the checkpoint folder")
    run.add_argument("--data", type=path, help="root of the data; without it the digits are written to OUT/data")
    run.add_argument("--backbone", type=path, metavar="DIR", help="a local save_pretrained folder of Qwen2-VL, Qwen2.5-VL or Qwen3-VL")
    run.add_argument("--decoder", type=path, metavar="DIR", help="a local folder of the latent decoder, such as Qwen3-0.6B")
    run.add_argument("--steps", type=int, help="stop after so many steps in all; 0 writes the initialised model")
    run.add_argument("--seed", type=int, help="replaces the recipe's seed")
    run.add_argument("--resume", action="store_true", help="continue from the newest state in OUT")
    run.set_defaults(run=_run)

    evaluate = commands.add_parser("evaluate", help="hit@1 of a checkpoint or bundle")
    evaluate.add_argument("model", type=path, help="a checkpoint or a bundle")
    evaluate.add_argument("--suite", choices=["digits"], default="digits")
    evaluate.add_argument("--data", type=path, required=True, help="root of the data")
    evaluate.add_argument("--split", default="eval", choices=["eval", "valid"])
    evaluate.add_argument("--json", action="store_true", help="machine-readable output")
    evaluate.set_defaults(run=_evaluate)

    data = commands.add_parser(
        "digits", help="write the digits data set", description="Writes the embedded data set in MMEB's row formats."
    )
    data.add_argument("root", type=path)
    data.add_argument("--tiny", action="store_true", help="a few hundred files, for tests")
    data.set_defaults(run=_digits)
    return parser


def _run(options: argparse.Namespace) -> int:
    import dataclasses

    from lame_training.digits import write_digits
    from lame_training.loop import check_folder, initialise, run
    from lame_training.recipes import find_recipe, with_tasks

    recipe = find_recipe(options.recipe)
    if options.steps is not None and options.steps < 0:
        raise InputError(f"--steps {options.steps}: use 0 or more")
    if options.seed is not None:
        recipe = dataclasses.replace(recipe, seed=options.seed)
    if recipe.scratch is None and options.backbone is None and not options.resume:
        raise InputError(f"recipe {recipe.name} needs a backbone: give the folder of one with --backbone")
    if options.steps == 0 and options.backbone is not None and options.data is None:
        initialise(recipe, options.out, options.backbone, options.decoder)
        print(f"wrote {options.out}")
        return 0
    if options.data is not None:
        recipe = with_tasks(recipe, options.data)
    check_folder(recipe, options.data, options.out, resume=options.resume)
    data = options.data
    if data is None:
        if not all(stage.tasks for stage in recipe.stages):
            raise InputError(f"recipe {recipe.name} needs data: name the root of an MMEB-style data set with --data")
        data = options.out / "data"
        if not data.is_dir():
            write_digits(data)
    run(recipe, data, options.out, backbone=options.backbone, decoder=options.decoder, steps=options.steps, resume=options.resume)
    print(f"wrote {options.out}")
    return 0


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


def _digits(options: argparse.Namespace) -> int:
    from lame_training.digits import FULL, TINY, write_digits

    write_digits(options.root, TINY if options.tiny else FULL)
    print(f"wrote {options.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
