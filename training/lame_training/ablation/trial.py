"""One training run of an arm, in memory: the step users run, and hit@1 of what it gives.

Rows and prepared inputs are read once per process and shared by its trials, as reading takes longer than some trials.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lame_runtime.batching import assemble, plan_batches
from lame_runtime.contract import Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.retrieval import Row, embed_rows, evaluate, read_rows, tasks
from numpy.typing import NDArray

from lame_training import start
from lame_training.collate import Collator, to_model_inputs
from lame_training.data import Pair, read_pairs
from lame_training.loop import draw_rows, train_step
from lame_training.model import LaMEModel
from lame_training.packed_attention import use_packed_attention
from lame_training.recipes import Recipe
from lame_training.vocabulary import END


@dataclass
class Bench:
    """The data of an ablation, read once."""

    data: Path
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    rows: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    collators: dict[int, Collator] = field(default_factory=dict)

    def pairs_of(self, recipe: Recipe) -> dict[str, list[Pair]]:
        """Training rows of the recipe's tasks."""
        for stage in recipe.stages:
            for task in stage.tasks:
                if task.name not in self.pairs:
                    self.pairs[task.name] = read_pairs(self.data, task)
        return self.pairs

    def rows_of(self, split: str) -> dict[str, list[Row]]:
        """Evaluation rows by task."""
        if split not in self.rows:
            self.rows[split] = {task: read_rows(self.data, task, split) for task in tasks(self.data, split)}
        return self.rows[split]

    def collator(self, recipe: Recipe, preparer: Preparer) -> Collator:
        """One per number of reason tokens; nothing else of a recipe changes what is prepared."""
        if recipe.n_reason not in self.collators:
            end = preparer.tokenizer.special(END)
            self.collators[recipe.n_reason] = Collator(preparer, end, recipe.chunk, recipe.picture_cache_mib)
        return self.collators[recipe.n_reason]


def make(bench: Bench, recipe: Recipe) -> tuple[LaMEModel, Collator]:
    """The model of step 0."""
    torch.manual_seed(recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        model, preparer = start.start(recipe, bench.data, bench.pairs_of(recipe), Path(folder) / "run", None, None)
    use_packed_attention(model.backbone.visual)
    return model, bench.collator(recipe, preparer)


def train(bench: Bench, recipe: Recipe, model: LaMEModel, collator: Collator, on_step=None) -> float:
    """Runs all stages; returns the process's seconds in training steps."""
    pairs, seconds, number = bench.pairs_of(recipe), 0.0, 0
    for stage_number, stage in enumerate(recipe.stages):
        optimizer = stage.prepare(model)
        for step in range(stage.steps):
            began = time.process_time()
            rows = draw_rows(stage, pairs, step, (recipe.seed, stage_number, number))
            losses = train_step(model, stage.at(step), collator, rows, optimizer, stage.rate_factor(step), recipe)
            seconds += time.process_time() - began
            number += 1
            if on_step is not None:
                on_step(number, seconds, losses)
    return seconds


def hits(bench: Bench, model: LaMEModel, collator: Collator, split: str, only: tuple[str, ...] = ()) -> dict[str, float]:
    """hit@1 by task."""
    model.eval()

    @torch.inference_mode()
    def embed(items: list[Input], role: str) -> NDArray[np.float32]:
        prepared = [collator._prepare(collator._instructed(item, role)) for item in items]
        out = np.empty((len(items), model.dim), dtype=np.float32)
        for chosen in plan_batches(prepared, 256):
            out[chosen] = model(to_model_inputs(assemble([prepared[i] for i in chosen], collator.preparer.contract)))[0].numpy()
        return out

    rows = {task: rows for task, rows in bench.rows_of(split).items() if not only or task in only}
    return {result.task: result.hit_at_1 for result in evaluate(rows, embed_rows(embed, rows))}
