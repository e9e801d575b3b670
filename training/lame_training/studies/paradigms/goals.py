"""Compares the ratios of every cell with the method's goals, and says what the ratios depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lame_training.studies.paradigms.baselines import (
    Discriminative,
    ExplicitCoT,
    LaME,
    LatentRollout,
)
from lame_training.studies.paradigms.measure import Cell

# Batch size 1 only: in a batch, decode steps share the reading of the weights, which is most of
# their cost, so the ratios fall.
AT_BATCH_1 = {ExplicitCoT.name: 60.0, LatentRollout.name: 2.0}
"""Goals at batch size 1: the paradigm's time as a multiple of LaME's, at least."""
OF_DISCRIMINATIVE = 0.97
"""Goal for the throughput of LaME as a share of the plain embedder's.

It is multiplied by L / (L + K + 1), because the K + 1 latent tokens are real work.
"""
Sizes = tuple[int, int]
"""Batch size and prompt length."""


@dataclass(frozen=True)
class Goal:
    """One goal in one cell."""

    batch_size: int
    length: int
    what: str
    """The ratio that is compared, in words."""
    bound: float
    """Smallest ratio that meets the goal."""
    figure: float | None
    """The measured ratio; None if one side ran out of memory."""

    @property
    def met(self) -> bool:
        """Whether the figure reaches the bound; a ratio that was not measured does not."""
        return self.figure is not None and self.figure >= self.bound


def goals(cells: Sequence[Cell], n_reason: int) -> list[Goal]:
    """Returns every goal of every cell; `n_reason` is K."""
    result = []
    for cell in cells:
        sizes = (cell.batch_size, cell.length)
        if cell.batch_size == 1:
            for name, bound in AT_BATCH_1.items():
                ratio = cell.ratio(name, LaME.name)
                result.append(Goal(*sizes, f"time of {name} / time of LaME", bound, ratio))
        bound = OF_DISCRIMINATIVE * cell.length / (cell.length + n_reason + 1)
        # the other's time over LaME's is LaME's throughput over the other's
        throughput = cell.ratio(Discriminative.name, LaME.name)
        result.append(Goal(*sizes, "throughput of LaME / of discriminative", bound, throughput))
    return result


def describe_ratios(cells: Sequence[Cell]) -> list[str]:
    """Returns one sentence per ratio that was measured.

    It gives the range of the ratio, and its largest change with prompt length alone and with batch
    size alone.
    """
    sentences = []
    for name in (ExplicitCoT.name, LatentRollout.name, Discriminative.name):
        ratios: dict[Sizes, float] = {}
        for cell in cells:
            # None if either ran out of memory: the range is over the cells that have both
            ratio = cell.ratio(name, LaME.name)
            if ratio is not None:
                ratios[cell.batch_size, cell.length] = ratio
        if not ratios:
            continue
        low = min(ratios, key=ratios.__getitem__)
        high = max(ratios, key=ratios.__getitem__)
        with_length = _largest_change(ratios, shared_axis=0)
        with_batch = _largest_change(ratios, shared_axis=1)
        # reports that were published have this wording
        sentences.append(
            f"{name} takes {ratios[low]:.2f} (batch {low[0]}, L {low[1]:,}) to "
            f"{ratios[high]:.2f} (batch {high[0]}, L {high[1]:,}) times as "
            f"long as LaME: at one batch size it moves up to {with_length:.1f}-fold with length, "
            f"at one length up to {with_batch:.1f}-fold with batch size."
        )
    return sentences


def describe_token_cost(cells: Sequence[Cell], tokens: int, n_reason: int) -> list[str]:
    """Returns a sentence on the cost of a decoded token, or none if nothing was measured.

    It explains explicit CoT's ratio to LaME: if a token costs as much as r prompt positions, the
    ratio is (L + r · tokens) / (L + K + 1). The sentence gives r as it was measured, and the r at
    which the goal would just be met.

    Args:
        cells: the measured cells.
        tokens: number of tokens of the chain of thought.
        n_reason: K.
    """
    costs: dict[Sizes, float] = {}
    for cell in cells:
        # against the plain embedder, which reads the same L positions: what is left is the tokens
        ratio = cell.ratio(ExplicitCoT.name, Discriminative.name)
        if ratio is not None:
            costs[cell.batch_size, cell.length] = (ratio - 1) * cell.length / tokens
    if not costs:
        return []
    per_batch = []
    for batch_size in sorted({batch_size for batch_size, _ in costs}):
        # one figure per length: the dict has the cells in the report's order
        figures = [
            f"{cost:.1f} (L {length:,})"
            for (size, length), cost in costs.items()
            if size == batch_size
        ]
        per_batch.append(f"batch {batch_size}: {', '.join(figures)}")
    # the equation in the docstring, solved for r
    bound = AT_BATCH_1[ExplicitCoT.name]
    needed = [
        f"{(bound * (length + n_reason + 1) - length) / tokens:.1f} (L {length:,})"
        for length in sorted({length for _, length in costs})
    ]
    return [
        "A decoded token costs as much as so many prompt positions: "
        f"{'; '.join(per_batch)}. {bound:.0f} times LaME's time needs {', '.join(needed)}."
    ]


def _largest_change(ratios: dict[Sizes, float], shared_axis: int) -> float:
    """Returns the largest quotient of two ratios with the same value on one axis of their sizes."""
    groups: dict[int, list[float]] = {}
    for sizes, ratio in ratios.items():
        groups.setdefault(sizes[shared_axis], []).append(ratio)
    return max(max(group) / min(group) for group in groups.values())
