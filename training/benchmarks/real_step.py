"""Measures a published recipe's training step at real size on one GPU.

    lame-train sample-backbone qwen2_vl BACKBONE --size 2b
    python training/benchmarks/real_step.py lame-qwen2-vl-2b BACKBONE [--rows 64 256]

Stage 2 of the recipe runs in random weights. A row is a question about a picture that fills half of
the query, and a text; both sides have `--tokens` tokens and decode a text of 64, as the estimate of
`--dry-run` assumes. A Markdown table is printed: peak memory beside the estimate, and rows per
second.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lame_runtime.contract import Input, Preparer
from lame_training.contract_from.tokenizer_training import END
from lame_training.data import Pair
from lame_training.data.collate import Collator
from lame_training.data.step_batch import BatchRow, StepBatch
from lame_training.distributed.processes import ProcessGroup
from lame_training.model.packed_attention import use_packed_attention
from lame_training.objective.gradcache import ForwardContext
from lame_training.recipes.catalog import find_recipe
from lame_training.recipes.stages import Stage, trained_names
from lame_training.run.dry_run.memory_estimate import TARGET, memory
from lame_training.run.initialization import initialize_run
from lame_training.run.loop import place, train_step
from PIL import Image

STEPS = 3
"""Steps of each size; the first is not timed."""
WORDS = ("digits", "add", "up", "to", "fifteen", "seven", "Name", "the", "What", "do")
HEADER = (
    "| rows | tokens per input | peak, GB | estimated, GB | seconds a step | samples/s "
    "| tokens/s |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def random_text(preparer: Preparer, tokens: int, rng: random.Random) -> str:
    """Returns random words that make at least `tokens` tokens."""
    words: list[str] = []
    while len(preparer.tokenizer.encode(" ".join(words))) < tokens:
        words.append(rng.choice(WORDS))
    return " ".join(words)


def random_pair(preparer: Preparer, tokens: int, rng: random.Random) -> Pair:
    """Returns a row whose sides have about `tokens` tokens each."""
    images = preparer.contract.images
    # a square picture whose merged patches are half of the tokens
    side = int((tokens / 2) ** 0.5) * images.patch_size * images.merge_size
    # another picture for each row, as equal inputs would be embedded once
    pixels = np.random.default_rng(rng.randrange(1 << 30)).integers(
        0, 255, (side, side, 3), dtype=np.uint8
    )
    return Pair(
        query=Input(text=random_text(preparer, tokens // 2, rng), image=Image.fromarray(pixels)),
        positive=Input(text=random_text(preparer, tokens, rng)),
        query_decodes=random_text(preparer, TARGET, rng),
        positive_decodes=random_text(preparer, TARGET, rng),
    )


def time_steps(
    context: ForwardContext, stage: Stage, batch: StepBatch, optimizer: torch.optim.AdamW
) -> float:
    """Returns the seconds of the fastest step but the first."""
    seconds = []
    for number in range(STEPS):
        # kernels are queued: without it the clock would stop before the GPU does
        torch.cuda.synchronize()
        start = time.perf_counter()
        train_step(context, stage, batch, optimizer, number)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    # the first step allocates the optimizer's moments and compiles kernels
    return min(seconds[1:])


def print_row(rows: int, lengths: Sequence[int], seconds: float, peak: int, estimate: int) -> None:
    """Prints a row of the table; `peak` and `estimate` are bytes, `lengths` tokens per input."""
    print(
        f"| {rows} | {np.mean(lengths):.0f} | {peak / 1e9:.1f} | {estimate / 1e9:.1f} "
        f"| {seconds:.2f} | {rows / seconds:.1f} | {sum(lengths) / seconds:,.0f} |",
        flush=True,
    )


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--tokens", type=int, default=1024)
    options = parser.parse_args()
    recipe, processes, rng = find_recipe(options.recipe), ProcessGroup(), random.Random(0)
    if processes.device.type != "cuda":
        parser.error("torch finds no GPU here")
    stage = recipe.stages[-1]
    torch.manual_seed(recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        model, preparer = initialize_run(
            recipe, None, [], Path(folder) / "run", options.backbone, None
        )
    # without data, `initialize_run` keeps the folder's type; a run with data trains FP32 weights
    model.float()
    estimate = memory(recipe, model)
    use_packed_attention(model.backbone.visual)
    place(model, recipe, trained_names(model, recipe.stages), processes)
    end_id = preparer.tokenizer.special(END)
    # no cache: every size has rows of its own
    collator = Collator(preparer, end_id, recipe.chunk, 0, threads=8)
    context = ForwardContext(model, recipe, processes, end_id)
    optimizer = stage.prepare(model)
    device = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(f"{device}; {options.recipe}, chunks of {recipe.chunk} inputs")
    parts = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in estimate.items())
    print(f"estimated: {parts}")
    print(HEADER, flush=True)
    for count in options.rows:
        rows = [
            BatchRow("random", number, random_pair(preparer, options.tokens, rng))
            for number in range(count)
        ]
        batch = collator(rows, contrastive=True, reconstructing=True)
        lengths = [len(prepared.ids) for chunk in batch.chunks for prepared in chunk.prepared]
        # the peak of a size must not be that of the one before
        torch.cuda.reset_peak_memory_stats()
        seconds = time_steps(context, stage, batch, optimizer)
        peak = torch.cuda.max_memory_allocated()
        print_row(count, lengths, seconds, peak, sum(estimate.values()))


if __name__ == "__main__":
    main()
