"""A stage of training: what it trains, its losses, its schedule, its tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lame_training.adapters import is_adapter
from lame_training.data import DataSet
from lame_training.model import PARTS, LaMEModel, part_of

WEIGHT_DECAY = 0.01
"""Of matrices; vectors have none."""


@dataclass(frozen=True)
class Stage:
    """One of the two stages (method.md's table), as values.

    `rates` maps a part of the model to its peak learning rate; a part that is not named stays frozen.
    The loss is `nce_weight · L_nce + rec_weight · L_rec`.
    """

    name: str
    steps: int
    batch_size: int
    sub_batch: int
    """Rows drawn together from one task; a batch interleaves `batch_size / sub_batch` tasks."""
    rates: dict[str, float]
    nce_weight: float
    rec_weight: float
    tasks: tuple[DataSet, ...]
    warmup: float = 0.05
    """Share of the steps over which the rate rises linearly; a cosine to a tenth follows."""
    rec_until: float = 1.0
    """Share of the steps after which L_rec ends: λ is `rec_weight` before and 0 from then on, and the decoder no longer runs."""

    def at(self, step: int) -> Stage:
        """The stage with the weights its losses have at `step` (0-based within the stage)."""
        return self if step < self.rec_until * self.steps else replace(self, rec_weight=0.0)

    def drawn(self, step: int) -> list[DataSet]:
        """The data sets that sub-batches of `step` are drawn from: those that have joined in and, without L_nce, decode a text."""
        return [task for task in self.tasks if step >= task.begins * self.steps and (self.nce_weight > 0 or task.target_side != "none")]

    def rate_factor(self, step: int) -> float:
        """What the peak rates are multiplied with at `step` (0-based within the stage)."""
        rising = max(1, round(self.steps * self.warmup))
        if step < rising:
            return (step + 1) / rising
        progress = (step - rising) / max(1, self.steps - rising)
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))

    def prepare(self, model: LaMEModel) -> torch.optim.AdamW:
        """Freezes what the stage does not train and returns the optimizer of what it does.

        Raises:
            ValueError: `rates` names a part the model does not know.
        """
        if unknown := set(self.rates) - set(PARTS.values()):
            raise ValueError(f"stage {self.name}: unknown parts {sorted(unknown)}; parts are {sorted(set(PARTS.values()))}")
        groups = []
        for part in sorted(set(PARTS.values())):
            rate = self.rates.get(part)
            decayed: list[torch.nn.Parameter] = []
            plain: list[torch.nn.Parameter] = []
            for name, parameter in model.part(part):
                moves = rate is not None and trains(model, name)
                parameter.requires_grad_(moves)
                if moves:
                    (decayed if parameter.ndim > 1 else plain).append(parameter)
            for parameters, decay in ((decayed, WEIGHT_DECAY), (plain, 0.0)):
                if parameters:
                    groups.append({"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay})
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def trains(model: LaMEModel, name: str) -> bool:
    """Whether a parameter may move when its part is trained: beside an adapter, the language model's own weights do not."""
    adapted = getattr(model.backbone, "_hf_peft_config_loaded", False)
    return not adapted or part_of(name) != "language_model" or is_adapter(name)


def trained_names(model: LaMEModel, stages: Sequence[Stage]) -> set[str]:
    """Names of the parameters that some stage trains."""
    parts = {part for stage in stages for part in stage.rates}
    return {name for name, _ in model.named_parameters() if part_of(name) in parts and trains(model, name)}
