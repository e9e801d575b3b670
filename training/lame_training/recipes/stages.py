"""A stage of training: which parts it trains, its losses, its schedule and its data sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from lame_runtime.arguments import integer, number
from lame_runtime.errors import UsageError

from lame_training.data import DataSet
from lame_training.model.adapters import is_adapter
from lame_training.model.components import PARTS, part_of
from lame_training.model.lame import LaMEModel

WEIGHT_DECAY = 0.01
"""AdamW's weight decay of matrices; vectors (norms, biases) are not decayed."""


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe, as values.

    The loss of a step is `nce_weight · L_nce + rec_weight · L_rec`.

    Attributes:
        name: shown in the log.
        steps: number of optimizer steps.
        batch_size: rows per step, over all processes.
        sub_batch: rows that are drawn together from one data set. A batch holds
            `batch_size / sub_batch` sub-batches, so a row's in-batch negatives come partly from its
            own data set (hard) and partly from others.
        rates: peak learning rate by part of the model (see `LaMEModel.part`); a part that is not
            named stays frozen.
        nce_weight: weight of the contrastive loss; 0 leaves it out.
        rec_weight: λ, the weight of the reconstruction loss; 0 leaves it out.
        tasks: the data sets; empty takes those of the mixture or the data root.
        warmup: share of the steps over which the rate rises linearly. It then falls on a cosine to
            a tenth of its peak.
        rec_until: share of the steps after which L_rec ends: λ is `rec_weight` before and 0
            afterwards, and the decoder no longer runs.

    Raises:
        UsageError: a number is out of range.
    """

    name: str
    steps: int
    batch_size: int
    sub_batch: int
    rates: dict[str, float]
    nce_weight: float
    rec_weight: float
    tasks: tuple[DataSet, ...]
    warmup: float = 0.05
    rec_until: float = 1.0

    def __post_init__(self) -> None:
        # 0 steps leave the stage out
        values: dict[str, object] = {
            name: integer(name, getattr(self, name), least)
            for name, least in (("steps", 0), ("batch_size", 1), ("sub_batch", 1))
        }
        for name, most in (
            *(("nce_weight", math.inf), ("rec_weight", math.inf)),
            *(("warmup", 1.0), ("rec_until", 1.0)),
        ):
            values[name] = number(name, getattr(self, name), 0.0, most)
        values["rates"] = {part: number("rates", rate, 0.0) for part, rate in self.rates.items()}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def at(self, step: int) -> Stage:
        """Returns the stage with its loss weights at `step` (0-based within the stage)."""
        return self if step < self.rec_until * self.steps else replace(self, rec_weight=0.0)

    def drawn(self, step: int) -> list[DataSet]:
        """Returns the data sets that sub-batches of `step` are drawn from.

        These are the data sets that have joined in by then (`DataSet.begins`). A stage without
        L_nce leaves out those that decode no text: their rows would have no loss.
        """
        return [
            task
            for task in self.tasks
            if step >= task.begins * self.steps
            and (self.nce_weight > 0 or task.target_side != "none")
        ]

    def rate_factor(self, step: int) -> float:
        """Returns the factor on the peak rates at `step` (0-based within the stage)."""
        warmup_steps = max(1, round(self.steps * self.warmup))
        if step < warmup_steps:
            # step + 1: with a factor of 0 the first step would be spent on nothing
            return (step + 1) / warmup_steps
        # max: the warm-up may take the whole stage
        progress = (step - warmup_steps) / max(1, self.steps - warmup_steps)
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))

    def prepare(self, model: LaMEModel) -> torch.optim.AdamW:
        """Freezes the parameters that the stage does not train; returns the others' optimizer.

        Each group of the optimizer keeps its peak rate under "peak".

        Raises:
            UsageError: `rates` names a part that the model does not have.
        """
        parts = sorted(set(PARTS.values()))
        # a misspelled part would stay frozen without a word
        unknown = sorted(set(self.rates) - set(parts))
        if unknown:
            raise UsageError(
                f"stage {self.name}: `rates` names unknown parts {unknown}; parts are {parts}"
            )
        groups = []
        # sorted, so that the optimizer's groups have one order whatever the recipe's
        for part in parts:
            rate = self.rates.get(part)
            matrices: list[torch.nn.Parameter] = []
            vectors: list[torch.nn.Parameter] = []
            for name, parameter in model.part(part):
                moves = rate is not None and trains(model, name)
                parameter.requires_grad_(moves)
                if moves:
                    (matrices if parameter.ndim > 1 else vectors).append(parameter)
            # decaying a norm's gain or a bias would pull it toward a value that means something
            for parameters, decay in ((matrices, WEIGHT_DECAY), (vectors, 0.0)):
                if parameters:
                    # the schedule overwrites "lr" at every step, so the peak has a key of its own
                    groups.append(
                        {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
                    )
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def trains(model: LaMEModel, name: str) -> bool:
    """Returns whether the parameter `name` may move when its part is trained.

    The language model's own weights do not move if it has adapters: the adapters move instead.
    """
    # transformers sets this private flag in `add_adapter`; it has no public counterpart
    adapted = getattr(model.backbone, "_hf_peft_config_loaded", False)
    return not adapted or part_of(name) != "language_model" or is_adapter(name)


def trained_names(model: LaMEModel, stages: Sequence[Stage]) -> set[str]:
    """Returns the names of the parameters that at least one of the stages trains."""
    # a stage trains a part if it has a rate for it, see `Stage.prepare`
    parts = {part for stage in stages for part in stage.rates}
    return {
        name
        for name, _ in model.named_parameters()
        if part_of(name) in parts and trains(model, name)
    }
