"""The method's goals, judged cell by cell, and what the ratios depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lame_training.paradigms.baselines import Discriminative, ExplicitCoT, LaME, LatentRollout
from lame_training.paradigms.measure import Cell

AT_BATCH_1 = {ExplicitCoT.name: 60.0, LatentRollout.name: 2.0}
"""How many times as long as LaME a paradigm is to take."""
OF_DISCRIMINATIVE = 0.97
"""LaME's throughput over discriminative's, times L / (L + K + 1): the K + 1 rows are real work."""


@dataclass(frozen=True)
class Goal:
    """One goal in one cell."""

    batch_size: int
    length: int
    what: str
    bound: float
    figure: float | None
    """None where a side ran out of memory."""

    @property
    def met(self) -> bool:
        """Whether the figure reaches the bound; what was not measured does not."""
        return self.figure is not None and self.figure >= self.bound


def goals(cells: Sequence[Cell], n_reason: int) -> list[Goal]:
    """Every goal of every cell."""
    found = []
    for cell in cells:
        place = (cell.batch_size, cell.length)
        if cell.batch_size == 1:
            for name, bound in AT_BATCH_1.items():
                found.append(Goal(*place, f"time of {name} / time of LaME", bound, cell.ratio(name, LaME.name)))
        bound = OF_DISCRIMINATIVE * cell.length / (cell.length + n_reason + 1)
        throughput = cell.ratio(Discriminative.name, LaME.name)
        found.append(Goal(*place, "throughput of LaME / of discriminative", bound, throughput))
    return found


def dependence(cells: Sequence[Cell]) -> list[str]:
    """A sentence per ratio: its range, and how far it moves with length alone and with batch size alone."""
    sentences = []
    for name in (ExplicitCoT.name, LatentRollout.name, Discriminative.name):
        found = {(c.batch_size, c.length): r for c in cells if (r := c.ratio(name, LaME.name)) is not None}
        if not found:
            continue
        low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        moves = [_spread(found, axis) for axis in (0, 1)]
        sentences.append(
            f"{name} takes {found[low]:.2f} (batch {low[0]}, L {low[1]:,}) to {found[high]:.2f} (batch {high[0]}, L {high[1]:,}) times as "
            f"long as LaME: at one batch size it moves up to {moves[0]:.1f}-fold with length, at one length up to {moves[1]:.1f}-fold "
            "with batch size."
        )
    return sentences


def reason(cells: Sequence[Cell], tokens: int, n_reason: int) -> list[str]:
    """Why explicit CoT's ratio is what it is: how many prompt positions a token costs, beside how many the goal takes.

    With r positions a token, explicit CoT takes (L + r·tokens) / (L + K + 1) times as long as LaME.
    """
    found = {}
    for cell in cells:
        thought, plain = (cell.timings[name].draws_ms for name in (ExplicitCoT.name, Discriminative.name))
        if thought and plain:
            extra = cell.ratio(ExplicitCoT.name, Discriminative.name) or 0.0
            found[cell.batch_size, cell.length] = (extra - 1) * cell.length / tokens
    batches = sorted({batch for batch, _ in found})
    per_batch = [
        f"batch {batch}: " + ", ".join(f"{cost:.1f} (L {length:,})" for (size, length), cost in found.items() if size == batch)
        for batch in batches
    ]
    bound = AT_BATCH_1[ExplicitCoT.name]
    lengths = sorted({length for _, length in found})
    needed = ", ".join(f"{(bound * (length + n_reason + 1) - length) / tokens:.1f} (L {length:,})" for length in lengths)
    if not found:
        return []
    return [
        f"A decoded token costs as much as so many prompt positions: {'; '.join(per_batch)}. {bound:.0f} times LaME's time needs {needed}."
    ]


def _spread(found: dict[tuple[int, int], float], axis: int) -> float:
    """The largest quotient between two ratios that share their place on `axis`."""
    groups: dict[int, list[float]] = {}
    for place, ratio in found.items():
        groups.setdefault(place[axis], []).append(ratio)
    return max(max(group) / min(group) for group in groups.values())
