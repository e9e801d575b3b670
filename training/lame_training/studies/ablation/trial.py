"""One training run of an arm, in memory: the training step that users run, then hit@1 of the model.

Rows and prepared inputs are read once per process and shared by its trials, because reading them
takes longer than some trials do. A trial's seconds are CPU time of the process, so that a busy
machine does not shorten it. They leave out the collation of rows, which does not depend on the arm.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lame_runtime.batching import plan_batches
from lame_runtime.contract import Preparer
from lame_runtime.contract.batch import Floats, assemble
from lame_runtime.contract.prompts import Input

from lame_training.contract_from.tokenizer_training import END
from lame_training.data import Pair, read_pairs
from lame_training.data.collate import Collator
from lame_training.data.sampler import Sampler
from lame_training.data.step_batch import BatchRow, to_model_inputs
from lame_training.distributed.processes import ProcessGroup
from lame_training.evaluation.retrieval import RankedPool, embed_rows, evaluate, read_rows
from lame_training.model.components import ModelInputs
from lame_training.model.lame import LaMEModel
from lame_training.model.packed_attention import use_packed_attention
from lame_training.objective.gradcache import ForwardContext
from lame_training.recipes.recipe import Recipe
from lame_training.run import initialization
from lame_training.run.loop import train_step
from lame_training.studies.probe_reason_tokens import embed_dropped, embed_swapped


@dataclass
class AblationData:
    """The data of an ablation; each file is read once, when it is first needed."""

    data: Path
    """The folder that `digit_rows.write_reasoning` wrote."""
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    rows: dict[str, list[RankedPool]] = field(default_factory=dict)
    collators: dict[int, Collator] = field(default_factory=dict)

    def training_pairs(self, recipe: Recipe) -> dict[str, list[Pair]]:
        """Returns the training rows of a recipe's data sets, by their names."""
        pairs = {}
        for data_set in {data_set for stage in recipe.stages for data_set in stage.tasks}:
            # the side that decodes is part of a `Pair`; weights and the like are not
            key = f"{data_set.name} {data_set.target_side}"
            if key not in self.pairs:
                self.pairs[key] = read_pairs(self.data, data_set)
            pairs[data_set.name] = self.pairs[key]
        return pairs

    def evaluation_rows(self, split: str, task: str) -> list[RankedPool]:
        """Returns the rows of an evaluation task."""
        key = f"{split} {task}"
        if key not in self.rows:
            self.rows[key] = read_rows(self.data, task, split)
        return self.rows[key]

    def collator(self, recipe: Recipe, preparer: Preparer) -> Collator:
        """Returns the collator of a recipe, with its cache of prepared inputs.

        There is one per number of reason tokens; nothing else in an arm changes what is prepared.
        """
        if recipe.n_reason not in self.collators:
            end_id = preparer.tokenizer.special(END)
            self.collators[recipe.n_reason] = Collator(
                preparer, end_id, recipe.chunk, recipe.picture_cache_mib
            )
        return self.collators[recipe.n_reason]


@dataclass
class Trial:
    """A model in training."""

    data: AblationData
    recipe: Recipe
    model: LaMEModel
    collator: Collator
    seconds: list[float] = field(default_factory=list)
    """CPU time of each step so far."""

    @staticmethod
    def begin(data: AblationData, recipe: Recipe) -> Trial:
        """Initializes the model of step 0 from the recipe's seed."""
        torch.manual_seed(recipe.seed)
        # initialization writes a tokenizer, which nothing needs afterward
        with tempfile.TemporaryDirectory() as folder:
            model, preparer = initialization.initialize_run(
                recipe,
                data.data,
                data.training_pairs(recipe).values(),
                Path(folder) / "run",
                None,
                None,
            )
        use_packed_attention(model.backbone.visual)
        return Trial(data, recipe, model, data.collator(recipe, preparer))

    def train(self) -> dict[str, float | None]:
        """Runs all stages.

        Returns:
            The means of L_nce ("nce") and L_rec ("rec") over the last tenth of the steps, None if
            the steps do not have the loss.

        Raises:
            TrainingError: a loss or a gradient is not finite.
        """
        pairs = self.data.training_pairs(self.recipe)
        context = ForwardContext(self.model, self.recipe, ProcessGroup("cpu"), self.collator.end_id)
        losses: dict[str, list[float | None]] = {"nce": [], "rec": []}
        for number, stage in enumerate(self.recipe.stages):
            optimizer = stage.prepare(self.model)
            sizes = {data_set.name: len(pairs[data_set.name]) for data_set in stage.tasks}
            sampler = Sampler(stage, sizes, (self.recipe.seed, number))
            for step in range(stage.steps):
                current = stage.at(step)
                batch_rows = [
                    BatchRow(name, int(index), pairs[name][int(index)])
                    for name, indices in sampler.draw(step)
                    for index in indices
                ]
                batch = self.collator(
                    batch_rows,
                    contrastive=current.nce_weight > 0,
                    reconstructing=current.rec_weight > 0,
                )
                # CPU time: it does not run while the process waits for another one
                start = time.process_time()
                step_losses, _ = train_step(context, current, batch, optimizer, step)
                self.seconds.append(time.process_time() - start)
                losses["nce"].append(step_losses.nce)
                losses["rec"].append(step_losses.rec)
        return {name: _mean_of_last_tenth(values) for name, values in losses.items()}

    def hits(
        self, tasks: Sequence[str], split: str, changed: str | None = None
    ) -> dict[str, float]:
        """Measures hit@1.

        Args:
            tasks: names of tasks of the data.
            split: "valid" or "eval".
            changed: "dropped" or "swapped" does that to the reason tokens of the queries, see
                `probe_reason_tokens`.

        Returns:
            hit@1 by task.
        """
        self.model.eval()
        embed_query = {None: _embed, "dropped": embed_dropped, "swapped": embed_swapped}[changed]

        def embed(items: list[Input], role: str) -> Floats:
            # only queries are changed; candidates stay as they are
            return self._vectors(items, role, embed_query if role == "query" else _embed)

        rows = {task: self.data.evaluation_rows(split, task) for task in tasks}
        vectors = embed_rows(embed, rows)
        return {result.task: result.hit_at_1 for result in evaluate(rows, vectors)}

    def _vectors(
        self, items: list[Input], role: str, embed: Callable[[LaMEModel, ModelInputs], Any]
    ) -> Floats:
        """Embeds inputs of one role in batches of the recipe's chunk size."""
        # through the collator's cache, which all trials of the process share
        prepared = [self.collator.prepare(item, role) for item in items]
        vectors = np.empty((len(items), self.model.dim), dtype=np.float32)
        for indices in plan_batches(prepared, self.recipe.chunk):
            batch = assemble([prepared[i] for i in indices], self.collator.preparer.contract)
            vectors[indices] = embed(self.model, to_model_inputs(batch))
        return vectors


@torch.inference_mode()
def _embed(model: LaMEModel, inputs: ModelInputs) -> Floats:
    """Returns embeddings, float32 (B, P)."""
    return model(inputs)[0].numpy()


def _mean_of_last_tenth(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are not None among the last tenth (one at least)."""
    last = values[-max(1, len(values) // 10) :]
    numbers = [value for value in last if value is not None]
    return float(np.mean(numbers)) if numbers else None
