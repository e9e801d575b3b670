"""Runs the published recipes' two stages at a tiny size, in one process or sharded over two.

`test_processes.py` starts it.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from lame_training import train
from lame_training.distributed.processes import ProcessGroup
from lame_training.model.adapters import LoRA
from lame_training.recipes.catalog import find_recipe
from lame_training.recipes.recipe import Recipe


def recipe_of(form: str) -> Recipe:
    """Returns the tiny digits recipe with the parts that the published stages train.

    Args:
        form: "frozen" trains the language model's own weights in the second stage, "adapters" LoRA,
            and "half" LoRA in BF16.
    """
    tiny, published = find_recipe("digits-tiny"), find_recipe("lame-qwen3-vl-8b")
    stages = tuple(
        dataclasses.replace(small, steps=4, rates=large.rates)
        for small, large in zip(tiny.stages, published.stages, strict=True)
    )
    recipe = dataclasses.replace(
        tiny,
        n_reason=8,
        pooling="embed",
        stages=stages,
        chunk=8,
        gradcache=True,
        gradient_checkpointing=True,
    )
    if form != "frozen":
        recipe = dataclasses.replace(recipe, lora=LoRA(rank=2, dropout=0.0))
    if form == "half":
        # Adam's first steps are the gradient's sign; at full rates a single sign that rounding
        # turns would lead the two runs apart
        slow = tuple(
            dataclasses.replace(
                stage, rates={part: rate / 100 for part, rate in stage.rates.items()}
            )
            for stage in stages
        )
        recipe = dataclasses.replace(recipe, precision="bf16", stages=slow)
    return recipe


def main(data: Path, backbone: Path, out: Path, form: str) -> None:
    """Trains into `out/one`, or into `out/sharded` if there are several processes."""
    torch.set_num_threads(1)
    # made here as well as in `run`, to know the number of processes beforehand
    world = ProcessGroup("cpu")
    several = world.size > 1
    folder = out / ("sharded" if several else "one")
    train(
        recipe_of(form),
        data,
        folder,
        backbone=backbone,
        progress=False,
        save_every=3,
        shard=several,
    )
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
