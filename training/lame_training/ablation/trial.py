"""One training run of an arm, in memory: the step that users run, and hit@1 of what it gives.

Rows and prepared inputs are read once per process and shared by its trials, as reading takes longer than some trials do.
The seconds of a trial are the process's own, so that a busy machine does not shorten it, and leave out the laying out of
rows, which does not depend on the arm.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lame_runtime.batching import assemble, plan_batches
from lame_runtime.contract import Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.retrieval import Row as Asked
from lame_runtime.retrieval import embed_rows, evaluate, read_rows

from lame_training import start
from lame_training.ablate import embed_dropped, embed_swapped
from lame_training.collate import Collator, Row, to_model_inputs
from lame_training.data import Pair, read_pairs
from lame_training.gradient import Pass
from lame_training.loop import train_step
from lame_training.model import LaMEModel, ModelInputs
from lame_training.packed_attention import use_packed_attention
from lame_training.recipes import Recipe
from lame_training.sampler import Sampler
from lame_training.vocabulary import END
from lame_training.world import World

Floats = npt.NDArray[np.float32]


@dataclass
class Bench:
    """The data of an ablation, read once."""

    data: Path
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    rows: dict[str, list[Asked]] = field(default_factory=dict)
    collators: dict[int, Collator] = field(default_factory=dict)

    def pairs_of(self, recipe: Recipe) -> dict[str, list[Pair]]:
        """Training rows by task."""
        found = {}
        for task in {task for stage in recipe.stages for task in stage.tasks}:
            key = f"{task.name} {task.target_side}"
            if key not in self.pairs:
                self.pairs[key] = read_pairs(self.data, task)
            found[task.name] = self.pairs[key]
        return found

    def rows_of(self, split: str, task: str) -> list[Asked]:
        """Rows of one evaluation task."""
        if (key := f"{split} {task}") not in self.rows:
            self.rows[key] = read_rows(self.data, task, split)
        return self.rows[key]

    def collator(self, recipe: Recipe, preparer: Preparer) -> Collator:
        """One per number of reason tokens: nothing else of an arm changes what is prepared."""
        if recipe.n_reason not in self.collators:
            end = preparer.tokenizer.special(END)
            self.collators[recipe.n_reason] = Collator(preparer, end, recipe.chunk, recipe.picture_cache_mib)
        return self.collators[recipe.n_reason]


@dataclass
class Trial:
    """A model in training."""

    bench: Bench
    recipe: Recipe
    model: LaMEModel
    collator: Collator
    seconds: list[float] = field(default_factory=list)
    """Of each step so far."""

    @staticmethod
    def begin(bench: Bench, recipe: Recipe) -> Trial:
        """The model of step 0."""
        torch.manual_seed(recipe.seed)
        with tempfile.TemporaryDirectory() as folder:
            model, preparer = start.start(recipe, bench.data, bench.pairs_of(recipe).values(), Path(folder) / "run", None, None)
        use_packed_attention(model.backbone.visual)
        return Trial(bench, recipe, model, bench.collator(recipe, preparer))

    def train(self) -> dict[str, float | None]:
        """Runs all stages; returns the means of the losses over the last tenth of the steps."""
        pairs = self.bench.pairs_of(self.recipe)
        through = Pass(self.model, self.recipe, World("cpu"), self.collator.end_id)
        losses = []
        for number, stage in enumerate(self.recipe.stages):
            optimizer = stage.prepare(self.model)
            sampler = Sampler(stage, {task.name: len(pairs[task.name]) for task in stage.tasks}, (self.recipe.seed, number))
            for step in range(stage.steps):
                now = stage.at(step)
                chosen = [Row(name, int(i), pairs[name][int(i)]) for name, places in sampler.draw(step) for i in places]
                batch = self.collator(chosen, contrastive=now.nce_weight > 0, reconstructing=now.rec_weight > 0)
                began = time.process_time()
                found, _ = train_step(through, now, batch, optimizer, step)
                self.seconds.append(time.process_time() - began)
                losses.append((found.nce, found.rec))
        last = losses[-max(1, len(losses) // 10) :]
        means = [[value for value in column if value is not None] for column in zip(*last, strict=True)]
        return {name: float(np.mean(column)) if column else None for name, column in zip(("nce", "rec"), means, strict=True)}

    def hits(self, tasks: Sequence[str], split: str, changed: str | None = None) -> dict[str, float]:
        """hit@1 by task.

        Args:
            tasks: of the data.
            split: "valid" or "eval".
            changed: "dropped" or "swapped" does that to the reason tokens of the queries.
        """
        self.model.eval()
        query = {None: self._embed, "dropped": embed_dropped, "swapped": embed_swapped}[changed]
        rows = {task: self.bench.rows_of(split, task) for task in tasks}
        vectors = embed_rows(lambda items, role: self._vectors(items, role, query if role == "query" else self._embed), rows)
        return {result.task: result.hit_at_1 for result in evaluate(rows, vectors)}

    @staticmethod
    @torch.inference_mode()
    def _embed(model: LaMEModel, inputs: ModelInputs) -> Floats:
        return model(inputs)[0].numpy()

    def _vectors(self, items: list[Input], role: str, embed: Callable[[LaMEModel, ModelInputs], Any]) -> Floats:
        prepared = [self.collator.prepare(item, role) for item in items]
        vectors = np.empty((len(items), self.model.dim), dtype=np.float32)
        for chosen in plan_batches(prepared, self.recipe.chunk):
            batch = assemble([prepared[i] for i in chosen], self.collator.preparer.contract)
            vectors[chosen] = embed(self.model, to_model_inputs(batch))
        return vectors
