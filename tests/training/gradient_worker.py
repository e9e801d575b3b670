"""The gradient of one step on the batch in `rows`, by as many processes as torchrun starts; run by test_gradient.py."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from lame_runtime.contract.prompts import Input
from lame_training.adapters import LoRA, add_lora
from lame_training.checkpoint import load_model
from lame_training.collate import Collator, Row
from lame_training.data import DataSet, read_pairs
from lame_training.gradient import Losses, Pass, accumulate
from lame_training.loop import train_step
from lame_training.recipes import Recipe, find_recipe
from lame_training.sharding import collect, shard
from lame_training.world import World

RECIPE = dataclasses.replace(find_recipe("digits-tiny"), chunk=5, gradcache=True)
STAGE = RECIPE.stages[1]


def rows(data: Path) -> list[Row]:
    """Two sub-batches: rows whose query, whose positive and of which neither decodes a text, hard negatives, doubles."""
    found = []
    for name, side, count in (("sum2", "positive", 5), ("find2", "query", 5), ("same2", "none", 4)):
        found += [Row(name, number, pair) for number, pair in enumerate(read_pairs(data, DataSet(name, side))[:count])]  # type: ignore[arg-type]
    hard = dataclasses.replace(found[0].pair, negatives=(Input("twelve"), Input("thirteen")))
    return [dataclasses.replace(found[0], pair=hard), *found[1:], found[0], found[6]]


def gradient(
    checkpoint: Path, shares: list[Row], recipe: Recipe, world: World, *, sharded: bool = False, update: bool = False
) -> tuple[dict[str, torch.Tensor], Losses]:
    """Gradients (or, with `update`, weights after one optimizer step) by parameter, and the losses."""
    model, preparer = load_model(checkpoint)
    torch.manual_seed(0)
    if recipe.lora is not None:
        add_lora(model.backbone, recipe.lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # fresh adapters have no gradient in half their weights
                torch.nn.init.normal_(parameter, std=0.1)
    if sharded:
        shard(model, world, recipe.precision)
    optimizer = STAGE.prepare(model)
    collator = Collator(preparer, 0, recipe.chunk, 8)
    batch = collator(shares, contrastive=True, reconstructing=True)
    through = Pass(model, recipe, world, 0, collator.filler() if sharded else None)
    if update:
        losses, _ = train_step(through, STAGE, batch, optimizer, 0)
        found = dict(model.named_parameters())
    else:
        model.train()
        losses = accumulate(through, batch, 1.0, 0.7)
        if not sharded:
            world.sum_gradients(p for p in model.parameters() if p.requires_grad)
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.clone() for name, value in collect(found, keep=True).items()}, losses


if __name__ == "__main__":
    checkpoint, data, out, form = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    world = World("cpu")
    shares = rows(data)
    own = ([], shares)[world.rank] if form.endswith("one-empty") else world.share(shares, "rows")
    recipe = dataclasses.replace(RECIPE, lora=LoRA(rank=2, dropout=0.0) if form == "lora" else None)
    found, losses = gradient(checkpoint, own, recipe, world, sharded=form.startswith("sharded"), update=form.endswith("update"))
    if world.main:
        torch.save((found, losses.nce, losses.rec), out)
    world.close()
