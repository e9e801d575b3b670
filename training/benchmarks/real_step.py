"""A published recipe's training step at real size on one GPU: peak memory beside what `--dry-run` estimates, and samples per second.

    python -m lame_training.sample_backbone qwen2_vl BACKBONE --size 2b
    python training/benchmarks/real_step.py lame-qwen2-vl-2b BACKBONE [--rows 64 256] [--tokens 1024]

Stage 2 of the recipe, random weights. A row is a question about a picture that fills half of the query, and a text; both sides
have `--tokens` tokens and decode a text of 64, as the estimate assumes. Prints a Markdown table; the first step of each size is
not timed.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lame_runtime.contract import Input, Preparer
from lame_training.collate import Collator, Row
from lame_training.data import Pair
from lame_training.dry_run import TARGET, memory
from lame_training.gradient import Pass
from lame_training.loop import place, train_step
from lame_training.packed_attention import use_packed_attention
from lame_training.recipes import find_recipe
from lame_training.stages import trained_names
from lame_training.start import start
from lame_training.vocabulary import END
from lame_training.world import World
from PIL import Image

STEPS = 3
"""Per size; the first is not timed."""
WORDS = ("digits", "add", "up", "to", "fifteen", "seven", "Name", "the", "What", "do")


def text(preparer: Preparer, tokens: int, dice: random.Random) -> str:
    """Words that make `tokens` tokens."""
    words: list[str] = []
    while len(preparer.tokenizer.encode(" ".join(words))) < tokens:
        words.append(dice.choice(WORDS))
    return " ".join(words)


def pair(preparer: Preparer, tokens: int, dice: random.Random) -> Pair:
    """A row whose sides have about `tokens` tokens each."""
    images = preparer.contract.images
    side = int((tokens / 2) ** 0.5) * images.patch_size * images.merge_size
    pixels = np.random.default_rng(dice.randrange(1 << 30)).integers(0, 255, (side, side, 3), dtype=np.uint8)
    query = Input(text=text(preparer, tokens // 2, dice), image=Image.fromarray(pixels))
    return Pair(query, Input(text=text(preparer, tokens, dice)), text(preparer, TARGET, dice), text(preparer, TARGET, dice))


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--tokens", type=int, default=1024)
    options = parser.parse_args()
    recipe, world, dice = find_recipe(options.recipe), World(), random.Random(0)
    if world.device.type != "cuda":
        parser.error("torch finds no GPU here")
    stage = recipe.stages[-1]
    torch.manual_seed(recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        model, preparer = start(recipe, None, [], Path(folder) / "run", options.backbone, None)
    model.float()  # as `start` leaves it where there is data to train on
    estimate = memory(recipe, model)
    use_packed_attention(model.backbone.visual)
    place(model, recipe, trained_names(model, recipe.stages), world)
    collator = Collator(preparer, preparer.tokenizer.special(END), recipe.chunk, 0, threads=8)
    through = Pass(model, recipe, world, collator.end_id)
    optimizer = stage.prepare(model)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {options.recipe}, chunks of {recipe.chunk} inputs")
    print("estimated: " + ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in estimate.items()))
    print("| rows | tokens per input | peak, GB | estimated, GB | seconds a step | samples/s | tokens/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for rows in options.rows:
        chosen = [Row("random", number, pair(preparer, options.tokens, dice)) for number in range(rows)]
        batch = collator(chosen, contrastive=True, reconstructing=True)
        lengths = [len(each.ids) for chunk in batch.chunks for each in chunk.prepared]
        torch.cuda.reset_peak_memory_stats()
        seconds = []
        for number in range(STEPS):
            torch.cuda.synchronize()
            began = time.perf_counter()
            train_step(through, stage, batch, optimizer, number)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        took, peak = min(seconds[1:]), torch.cuda.max_memory_allocated() / 1e9
        print(
            f"| {rows} | {np.mean(lengths):.0f} | {peak:.1f} | {sum(estimate.values()) / 1e9:.1f} | {took:.2f} | {rows / took:.1f} "
            f"| {sum(lengths) / took:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
