"""How a model is quantised to INT8: every way that is tried, what it costs measured on inputs, and the choice.

Three things are searched one after the other, each on the best of what came before:

    strength     of the smoothing (`passes.smooth`), 0 to leave it out
    percentile   of a modality's tokens that stay within an activation's range; 100 takes the maximum
    layers       which linear layers compute in integers (int8), or over calibrated ranges (int8-cpu)

Strength and percentile go to the way that loses least. The layers go to the fastest set that stays within half of what
the gates allow, so that inputs the choice was not made on have the other half, and that moves embeddings little beside
how far they lie apart; where none does, to the set that loses least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
from lame_runtime import gates

from lame_export.golden_set import ANY
from lame_export.passes.int8 import KEPT

Floats = npt.NDArray[np.float32]
STRENGTHS = (0.0, 0.35, 0.5, 0.65, 0.8)
PERCENTILES = (100.0, 99.9, 99.0)
HALF = 0.5
"""Share of a gate's allowance that a choice may use up."""
BLUR = 0.005
"""Distances are 1 - cosine. Of embeddings that lie close together a small error changes the neighbours: where it was one
hundredth of their distance, 91 % of the ten nearest stayed, and 80 % where it was a fortieth (digits-tiny, picture to picture)."""
CLEARLY = 0.98
"""A range that cuts tokens off must lose less than this share of what the maximum loses."""


@dataclass(frozen=True)
class Way:
    """One way to quantise a model."""

    strength: float = 0.0
    percentile: float = 100.0
    kept: frozenset[str] = KEPT
    """Linear layers, by name, that stay in half precision (int8)."""
    ends: bool = False
    """Whether the first and the last block stay in half precision too, where there are others (int8)."""
    static: frozenset[str] = frozenset()
    """Linear layers, by name, whose activations are quantised over calibrated ranges (int8-cpu); the others' per token."""

    def to_json(self) -> dict[str, object]:
        """As the certificate holds it."""
        return {**asdict(self), "kept": sorted(self.kept), "static": sorted(self.static)}


NORMED = frozenset({"q", "k", "v", "qkv", "gate", "up", "fc1"})
"""Linear layers that read a norm's output, in one of the towers at least."""
INSIDE = frozenset({"o", "down"})
"""Those of the language model that read what attention or the gate made, and that smoothing reaches."""
INT8_SETS = (Way(kept=KEPT - INSIDE), Way(kept=KEPT), Way(kept=KEPT, ends=True))
CPU_SETS = (Way(static=NORMED | INSIDE), Way(static=NORMED), Way())
"""Fastest first."""


@dataclass(frozen=True)
class Cost:
    """What a way costs."""

    mean_cosine: dict[str, float]
    """To PyTorch's embeddings, by modality."""
    min_cosine: float
    """The least of all."""
    alone: float
    """The least between an input's vector alone and in a batch."""
    blur: float
    """The largest of the modalities: the distance to PyTorch's embeddings as a share of their distance from one another."""

    @property
    def within(self) -> bool:
        """Whether it leaves half of the gates' allowance in every modality, and neighbours their order."""
        graph, alone = gates.GRAPH_VS_PYTORCH["int8"], gates.ALONE_VS_BATCH["int8"]
        figures = {"mean_cosine": min(self.mean_cosine.values()), "min_cosine": self.min_cosine}
        bounds = [(figures[name], bound) for name, (_, bound) in graph.items()] + [(self.alone, alone["min_cosine"][1])]
        return self.blur <= BLUR and all(1 - figure <= HALF * (1 - bound) for figure, bound in bounds)

    @property
    def loss(self) -> float:
        """What ways are compared by: every modality counts the same, and a way that gave no number loses most."""
        mean = float(np.mean(list(self.mean_cosine.values())))
        return 1 - mean if np.isfinite(mean) else np.inf


@dataclass(frozen=True)
class Trial:
    """A way that was tried on a graph."""

    graph: str
    way: Way
    cost: Cost
    proved: bool | None
    """Whether it met the gates on the golden inputs; None where it was not asked to."""

    def to_json(self) -> dict[str, object]:
        """As the certificate holds it; JSON has no NaN, so a figure that is not finite is null."""
        cost = asdict(self.cost)
        cost["mean_cosine"] = {modality: _finite(mean) for modality, mean in self.cost.mean_cosine.items()}
        cost |= {name: _finite(cost[name]) for name in ("min_cosine", "alone", "blur")}
        return {"graph": self.graph, **self.way.to_json(), **cost, "proved": self.proved}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


Measure = Callable[[str, Way], Cost]
"""Quantises a graph ("int8" or "int8-cpu") in a way and measures what that costs."""
Prove = Callable[[str, Way], bool]
"""Likewise, and says whether it meets the gates on the golden inputs."""
SETS = {"int8": INT8_SETS, "int8-cpu": CPU_SETS}


def choose(
    graphs: Sequence[str], measure: Measure, prove: Prove, strengths: Sequence[float] = STRENGTHS
) -> tuple[dict[str, Way], list[Trial]]:
    """The way for each of the graphs, and everything that was tried.

    Strength and percentile are found on the first graph and hold for all: the graphs share one smoothed model.

    Args:
        graphs: of "int8" and "int8-cpu"; none is fine.
        measure: what a way costs.
        prove: asked of a way before it is taken; the next slower one is tried where it says no.
        strengths: to try; a single one is taken as it is.
    """
    found: dict[tuple[str, Way], Cost] = {}
    proved: dict[tuple[str, Way], bool] = {}

    def cost(graph: str, way: Way) -> Cost:
        if (graph, way) not in found:
            found[graph, way] = measure(graph, way)
        return found[graph, way]

    def holds(graph: str, way: Way) -> bool:
        if cost(graph, way).within:
            proved[graph, way] = prove(graph, way)
        return proved.get((graph, way), False)

    chosen = {}
    shared = _ranges(graphs[0], cost, strengths) if graphs else Way()
    for graph in graphs:
        ways = [replace(each, strength=shared.strength, percentile=shared.percentile) for each in SETS[graph]]
        fastest = next((way for way in ways if holds(graph, way)), None)
        chosen[graph] = fastest or min(ways, key=lambda way: cost(graph, way).loss)
    return chosen, [Trial(graph, way, each, proved.get((graph, way))) for (graph, way), each in found.items()]


def _ranges(graph: str, cost: Measure, strengths: Sequence[float]) -> Way:
    """Strength and percentile that lose least, on the set of layers that has the most to lose."""
    ways = [replace(SETS[graph][0], strength=strength) for strength in strengths]
    plain = min(ways, key=lambda way: cost(graph, way).loss) if len(ways) > 1 else ways[0]
    cut = min((replace(plain, percentile=each) for each in PERCENTILES[1:]), key=lambda way: cost(graph, way).loss)
    return cut if cost(graph, cut).loss < CLEARLY * cost(graph, plain).loss else plain


def cost_of(modalities: Sequence[str], found: Floats, expected: Floats, alone: Floats) -> Cost:
    """The cost by three arrays of unit rows; the last holds the first rows of `found`, each computed by itself.

    Random tokens are left out of the blur: what a model never learned it need not tell apart.
    """
    apart = (found * expected).sum(axis=1)
    mates = (found[: len(alone)] * alone).sum(axis=1)
    by_modality = {each: float(apart[[each == other for other in modalities]].mean()) for each in dict.fromkeys(modalities)}
    blur = 0.0
    for modality, mean in by_modality.items():
        rows = expected[[modality == other for other in modalities]]
        if len(rows) > 1 and modality != ANY:
            between = (len(rows) - float(np.square(rows.sum(axis=0)).sum()) / len(rows)) / (len(rows) - 1)
            blur = max(blur, (1 - mean) / max(between, 1e-12))
    return Cost(by_modality, float(apart.min()), float(mates.min()), blur)
