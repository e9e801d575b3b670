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
    run.add_argument("--out", type=path, help="the checkpoint folder; all but --dry-run need it")
    run.add_argument("--data", type=path, help="root of the data; without it the digits are written to OUT/data")
    run.add_argument("--backbone", type=path, metavar="DIR", help="a local save_pretrained folder of Qwen2-VL, Qwen2.5-VL or Qwen3-VL")
    run.add_argument("--decoder", type=path, metavar="DIR", help="a local folder of the latent decoder, such as Qwen3-0.6B")
    run.add_argument("--steps", type=int, help="stop after so many steps in all; 0 writes the initialised model")
    run.add_argument("--seed", type=int, help="replaces the recipe's seed")
    run.add_argument(
        "--matryoshka", type=int, nargs="+", metavar="N", help="lengths of the vector's beginnings that L_nce is also computed on"
    )
    run.add_argument("--mixture", type=path, metavar="FILE", help="a YAML file that names the data sets, in place of those found in --data")
    run.add_argument("--dry-run", action="store_true", help="print what would be trained, how large it is and what memory it takes")
    run.add_argument("--save-every", type=int, metavar="N", help="steps between states to resume from; by default the recipe's")
    run.add_argument("--keep", type=int, default=1, metavar="N", help="states kept (1)")
    run.add_argument("--threads", type=int, help="pictures decoded at a time beside the model; by default 8 with a GPU, none without")
    run.add_argument("--device", choices=["cpu"], help="cpu leaves a GPU alone")
    run.add_argument("--shard", action="store_true", help="spread the parameters over the processes that torchrun started (FSDP2)")
    run.add_argument("--resume", action="store_true", help="continue from the newest state in OUT")
    run.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import dataclasses

    from lame_training.digits import write_digits
    from lame_training.loop import Options, initialise, run
    from lame_training.recipes import find_recipe, with_tasks
    from lame_training.start import check_folder
    from lame_training.world import World

    recipe = find_recipe(options.recipe)
    for flag in ("steps", "threads"):
        if (value := getattr(options, flag)) is not None and value < 0:
            raise InputError(f"--{flag} {value}: use 0 or more")
    for flag in ("save_every", "keep"):
        if (value := getattr(options, flag)) is not None and value < 1:
            raise InputError(f"--{flag.replace('_', '-')} {value}: use 1 or more")
    if options.seed is not None:
        recipe = dataclasses.replace(recipe, seed=options.seed)
    if options.matryoshka is not None:
        if wrong := [length for length in options.matryoshka if not 0 < length < recipe.dim]:
            raise InputError(f"--matryoshka {wrong[0]}: use lengths from 1 to {recipe.dim - 1}; the vector has {recipe.dim} numbers")
        recipe = dataclasses.replace(recipe, matryoshka=tuple(sorted(set(options.matryoshka), reverse=True)))
    if options.dry_run:
        return _dry_run(recipe, options)
    if options.out is None:
        raise InputError("--out is missing: name the folder for the checkpoint")
    if recipe.scratch is None and options.backbone is None and not options.resume:
        raise InputError(f"recipe {recipe.name} needs a backbone: give the folder of one with --backbone")
    if options.steps == 0 and options.backbone is not None and options.data is None:
        initialise(recipe, options.out, options.backbone, options.decoder)
        print(f"wrote {options.out}")
        return 0
    data = options.data
    if data is None:
        if not all(stage.tasks for stage in recipe.stages) or options.mixture is not None:
            raise InputError(f"recipe {recipe.name} needs data: name the root of an MMEB-style data set with --data")
        data = options.out / "data"
    world = World(options.device)
    if world.main:
        check_folder(with_tasks(recipe, data, options.mixture), options.data, options.out, resume=options.resume)
        if not data.is_dir() and options.data is None:
            write_digits(data)
    world.barrier()
    threads = options.threads if options.threads is not None else 8 if world.device.type == "cuda" else 0
    run(
        recipe,
        data,
        options.out,
        backbone=options.backbone,
        decoder=options.decoder,
        mixture=options.mixture,
        steps=options.steps,
        resume=options.resume,
        options=Options(options.save_every, options.keep, threads, options.device, options.shard),
    )
    if world.main:
        print(f"wrote {options.out}")
    world.close()
    return 0


def _dry_run(recipe: Any, options: argparse.Namespace) -> int:
    from lame_training.dry_run import describe

    print(describe(recipe, options.data, options.mixture, options.backbone, options.decoder))
    return 0
