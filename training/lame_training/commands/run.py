"""`lame-train run`: train a recipe."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli import path
from lame_runtime.errors import InputError


def add(commands: Any) -> None:
    """Declares the command."""
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
