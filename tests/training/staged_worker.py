"""The published recipes' two stages at a tiny size, by one process or sharded over two; run by test_processes.py."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from lame_training.adapters import LoRA
from lame_training.loop import Options, run
from lame_training.recipes import find_recipe
from lame_training.world import World

tiny, published = find_recipe("digits-tiny"), find_recipe("lame-qwen3-vl-8b")
stages = tuple(dataclasses.replace(small, steps=4, rates=large.rates) for small, large in zip(tiny.stages, published.stages, strict=True))

if __name__ == "__main__":
    data, backbone, out, form = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    world = World("cpu")
    recipe = dataclasses.replace(tiny, n_reason=8, pooling="embed", stages=stages, chunk=8, gradcache=True, gradient_checkpointing=True)
    if form != "frozen":
        recipe = dataclasses.replace(recipe, lora=LoRA(rank=2, dropout=0.0))
    if form == "half":  # Adam's first steps are the gradient's sign: where rounding turns one, full rates would part the runs
        small = tuple(dataclasses.replace(stage, rates={part: rate / 100 for part, rate in stage.rates.items()}) for stage in stages)
        recipe = dataclasses.replace(recipe, precision="bf16", stages=small)
    several = world.size > 1
    folder = out / ("sharded" if several else "one")
    run(recipe, data, folder, backbone=backbone, progress=False, options=Options(save_every=3, shard=several))
    world.close()
