"""Computes the gradient of one step on the batch of `rows`, in one process or several.

`test_gradient.py` imports its functions and runs it as a program.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from lame_runtime.contract.prompts import Input
from lame_training.data import DataSet, read_pairs
from lame_training.data.collate import Collator
from lame_training.data.step_batch import BatchRow
from lame_training.distributed.processes import ProcessGroup
from lame_training.distributed.sharding import full_tensors, shard_model
from lame_training.model.adapters import LoRA, add_lora
from lame_training.model.checkpoint import load_model
from lame_training.objective.gradcache import ForwardContext, Losses, accumulate
from lame_training.recipes.catalog import find_recipe
from lame_training.recipes.recipe import Recipe
from lame_training.run.loop import train_step

RECIPE = dataclasses.replace(find_recipe("digits-tiny"), chunk=5, gradcache=True)
STAGE = RECIPE.stages[1]


def rows(data: Path) -> list[BatchRow]:
    """Returns a batch with everything that could go wrong in chunks or processes.

    In some rows the query decodes a text, in others the positive, in others neither; one row has
    hard negatives, and two rows occur twice.
    """
    batch = []
    for name, side, count in (("sum2", "positive", 5), ("find2", "query", 5), ("same2", "none", 4)):
        pairs = read_pairs(data, DataSet(name, side))[:count]  # type: ignore[arg-type]
        batch += [BatchRow(name, number, pair) for number, pair in enumerate(pairs)]
    hard = dataclasses.replace(batch[0].pair, negatives=(Input("twelve"), Input("thirteen")))
    return [dataclasses.replace(batch[0], pair=hard), *batch[1:], batch[0], batch[6]]


def gradient(
    checkpoint: Path,
    own_rows: list[BatchRow],
    recipe: Recipe,
    world: ProcessGroup,
    *,
    sharded: bool = False,
    update: bool = False,
) -> tuple[dict[str, torch.Tensor], Losses]:
    """Returns gradients by parameter, and the losses.

    Args:
        checkpoint: the model to start from.
        own_rows: this process's rows.
        recipe: the recipe of the step.
        world: all processes.
        sharded: shard the parameters with FSDP2.
        update: return the weights after one optimizer step in place of gradients.
    """
    model, preparer = load_model(checkpoint)
    torch.manual_seed(0)
    if recipe.lora is not None:
        add_lora(model.backbone, recipe.lora)
        for name, parameter in model.named_parameters():
            # PEFT initializes this factor with zeros, and then the other one has no gradient
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    if sharded:
        shard_model(model, world, recipe.precision)
    optimizer = STAGE.prepare(model)
    collator = Collator(preparer, 0, recipe.chunk, 8)
    batch = collator(own_rows, contrastive=True, reconstructing=True)
    # 0 stands for the id between latent states and target; any id does
    context = ForwardContext(model, recipe, world, 0, collator.filler() if sharded else None)
    if update:
        losses, _ = train_step(context, STAGE, batch, optimizer, 0)
        values = dict(model.named_parameters())
    else:
        model.train()
        losses = accumulate(context, batch, 1.0, 0.7)
        # FSDP2 has summed the gradients of sharded parameters already
        if not sharded:
            world.sum_gradients(p for p in model.parameters() if p.requires_grad)
        values = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    whole = full_tensors(values, keep=True)
    return {name: value.clone() for name, value in whole.items()}, losses


def main(checkpoint: Path, data: Path, out: Path, form: str) -> None:
    """Writes gradients, L_nce and L_rec to `out`; `form` is one of those in `test_gradient.py`."""
    # two processes share the machine, and other numbers of threads sum in another order
    torch.set_num_threads(1)
    world = ProcessGroup("cpu")
    batch = rows(data)
    if form.endswith("one-empty"):
        own_rows = ([], batch)[world.rank]
    else:
        own_rows = world.shard_list(batch, "rows")
    recipe = dataclasses.replace(RECIPE, lora=LoRA(rank=2, dropout=0.0) if form == "lora" else None)
    values, losses = gradient(
        checkpoint,
        own_rows,
        recipe,
        world,
        sharded=form.startswith("sharded"),
        update=form.endswith("update"),
    )
    # after summing, every process has the same gradients
    if world.is_main_process:
        torch.save((values, losses.nce, losses.rec), out)
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
