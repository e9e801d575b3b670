"""The search for an INT8 configuration: which ones are tried, what each costs, and which one wins.

Three things are searched one after the other, each on the best of what came before:

    strength     of the smoothing (`quantization.smoothing`); 0 leaves it out
    percentile   of a modality's tokens that an activation's range holds; 100 is the maximum
    layers       which of them compute in integers (int8) or over calibrated ranges (int8-cpu)

Strength and percentile are those that lose least. The layers are the fastest set that uses up at
most half of what the graph's gates allow (which leaves the other half to inputs that the choice was
not made on) and that moves embeddings little compared with the distances between them. If there is
no such set, it is the one that loses least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from lame_runtime.contract.batch import Floats
from lame_runtime.parity import gates

from lame_export.parity.calibration_inputs import RANDOM_TEXT
from lame_export.quantization.static_int8 import HALF_LAYERS

STRENGTHS = (0.0, 0.35, 0.5, 0.65, 0.8)
"""Smoothing strengths: off, and around SmoothQuant's usual 0.5. Each costs one trial."""
PERCENTILES = (100.0, 99.9, 99.0)
"""The maximum first: it cuts nothing off, and is taken unless another one is clearly better."""
GATE_SHARE = 0.5
"""Share of a gate's allowance (1 - bound) that a configuration may use up.

A half: golden inputs and users' inputs, which the choice was not made on, have the other one.
"""
MAX_NEIGHBOR_ERROR = 0.005
"""Largest `Cost.neighbor_error` of a configuration that is within the gates.

If embeddings lie close together, a small error changes which are neighbors although every cosine
passes. At an error of 1/100 of their distance, 91 % of the ten nearest stayed the same, at 1/40
only 80 % (digits-tiny, picture to picture); this is half of the smaller of the two errors.
"""
MIN_IMPROVEMENT = 0.02
"""Share of the maximum's loss that a range must save if it cuts tokens off.

There are at most 16 trial inputs of each modality, so a smaller difference says little, and the
maximum is the safer range for inputs that reach further than these.
"""


@dataclass(frozen=True)
class QuantConfig:
    """How a model is quantized to INT8."""

    strength: float = 0.0
    """Strength of the smoothing, 0 to 1; 0 leaves it out."""
    percentile: float = 100.0
    """Percentile of a modality's tokens that the range of a static activation holds."""
    half_layers: frozenset[str] = HALF_LAYERS
    """Linear layers, by name, that stay in half precision (int8 only)."""
    half_ends: bool = False
    """Whether the first and the last of several blocks stay in half precision, too (int8 only)."""
    static_layers: frozenset[str] = frozenset()
    """Linear layers, by name, that quantize over calibrated ranges (int8-cpu only).

    All other layers of that graph measure one scale per token while they run.
    """

    def to_json(self) -> dict[str, object]:
        """Returns the configuration as the certificate holds it."""
        # keys are a file format, and need not follow the names of the fields
        return {
            "strength": self.strength,
            "percentile": self.percentile,
            "kept": sorted(self.half_layers),
            "ends": self.half_ends,
            "static": sorted(self.static_layers),
        }


INPUT_PROJECTIONS = frozenset({"q", "k", "v", "qkv", "gate", "up", "fc1"})
"""Linear layers that read a norm's output, in at least one of the towers.

A norm keeps their activations in a narrow range, so that one scale serves all tokens.
"""
OUTPUT_PROJECTIONS = frozenset({"o", "down"})
"""Linear layers of the language model that read what attention or the gated MLP computed.

Their activations have outliers, but smoothing reaches them (`smoothing.MAKERS`).
"""
INT8_SETS = (
    QuantConfig(half_layers=HALF_LAYERS - OUTPUT_PROJECTIONS),
    QuantConfig(half_layers=HALF_LAYERS),
    QuantConfig(half_layers=HALF_LAYERS, half_ends=True),
)
"""Sets of layers for "int8", fastest first: each leaves more layers in half than the one before."""
CPU_SETS = (
    QuantConfig(static_layers=INPUT_PROJECTIONS | OUTPUT_PROJECTIONS),
    QuantConfig(static_layers=INPUT_PROJECTIONS),
    QuantConfig(),
)
"""Sets of layers for "int8-cpu", fastest first: each scales more layers per token."""
SETS = {"int8": INT8_SETS, "int8-cpu": CPU_SETS}


@dataclass(frozen=True)
class Cost:
    """The quality that a configuration costs, measured on trial inputs."""

    mean_cosine: dict[str, float]
    """Mean cosine to PyTorch's embeddings, by modality."""
    min_cosine: float
    """Smallest cosine to PyTorch's embeddings, of all inputs."""
    alone: float
    """Smallest cosine between an input's embedding computed alone and in a batch."""
    neighbor_error: float
    """Mean 1 - cosine to PyTorch's embeddings, as a share of that between them.

    The largest of the modalities.
    """

    def within_gates(self, graph: str) -> bool:
        """Returns whether `GATE_SHARE` of the graph's gates covers the cost, in every modality.

        Args:
            graph: name of the graph, whose own row of the gates' tables counts.
        """
        figures = {"mean_cosine": min(self.mean_cosine.values()), "min_cosine": self.min_cosine}
        bounds = [
            (figures[name], bound) for name, (_, bound) in gates.GRAPH_VS_PYTORCH[graph].items()
        ]
        bounds.append((self.alone, gates.ALONE_VS_BATCH[graph]["min_cosine"][1]))
        # all figures are cosines, so a bound allows to lose 1 - bound
        return self.neighbor_error <= MAX_NEIGHBOR_ERROR and all(
            1 - figure <= GATE_SHARE * (1 - bound) for figure, bound in bounds
        )

    @property
    def loss(self) -> float:
        """One figure to compare configurations by: 1 minus the mean of the modalities' cosines.

        Every modality counts the same. Infinite if the graph gave a value that is not finite.
        """
        mean = float(np.mean(list(self.mean_cosine.values())))
        # NaN compares as neither less nor more, so that `min` might return it
        return 1 - mean if np.isfinite(mean) else np.inf


@dataclass(frozen=True)
class Trial:
    """A configuration that was tried on a graph."""

    graph: str
    config: QuantConfig
    cost: Cost
    proved: bool | None
    """Whether it met the gates on the golden inputs; None if it did not come to that."""

    def to_json(self) -> dict[str, object]:
        """Returns the trial as the certificate holds it; JSON has no NaN, so it becomes null."""
        cost = self.cost
        means = {modality: _finite(mean) for modality, mean in cost.mean_cosine.items()}
        # "blur" is the format's name of the neighbor error
        return {
            "graph": self.graph,
            **self.config.to_json(),
            "mean_cosine": means,
            "min_cosine": _finite(cost.min_cosine),
            "alone": _finite(cost.alone),
            "blur": _finite(cost.neighbor_error),
            "proved": self.proved,
        }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


Measure = Callable[[str, QuantConfig], Cost]
"""Quantizes a graph ("int8" or "int8-cpu") by a configuration and measures what that costs."""
Prove = Callable[[str, QuantConfig], bool]
"""Quantizes a graph by a configuration and checks it against the gates on the golden inputs."""


def choose(
    graphs: Sequence[str], measure: Measure, prove: Prove, strengths: Sequence[float] = STRENGTHS
) -> tuple[dict[str, QuantConfig], list[Trial]]:
    """Searches a configuration for each graph.

    Strength and percentile are found on the first graph and hold for all, since the graphs share
    one smoothed model.

    Args:
        graphs: any of "int8" and "int8-cpu", or none.
        measure: measures what a configuration costs; called once for each.
        prove: called before a configuration is taken; if it returns False, the next slower set of
            layers is tried.
        strengths: smoothing strengths to try; a single one is taken as it is.

    Returns:
        The configuration of each graph, and all that were tried, in order.
    """
    search = _Search(measure, prove)
    if not graphs:
        return {}, []
    shared = search.best_ranges(graphs[0], strengths)
    configs = {graph: search.best_layers(graph, shared) for graph in graphs}
    return configs, search.trials()


class _Search:
    """Remembers what was measured and proved, so that no configuration is tried twice."""

    def __init__(self, measure: Measure, prove: Prove) -> None:
        self._measure, self._prove = measure, prove
        self._costs: dict[tuple[str, QuantConfig], Cost] = {}
        self._proved: dict[tuple[str, QuantConfig], bool] = {}

    def best_ranges(self, graph: str, strengths: Sequence[float]) -> QuantConfig:
        """Returns the strength and the percentile that lose least.

        They are compared on the fastest set of layers, the one that has the most to lose.
        """
        # first the strengths, then percentiles on the best one: a sum of trials, not a product
        fastest = SETS[graph][0]
        configs = [replace(fastest, strength=strength) for strength in strengths]
        # a single strength has nothing to be compared with
        whole = self._least_loss(graph, configs) if len(configs) > 1 else configs[0]
        cut = self._least_loss(
            graph, [replace(whole, percentile=percentile) for percentile in PERCENTILES[1:]]
        )
        tolerated = (1 - MIN_IMPROVEMENT) * self._cost(graph, whole).loss
        return cut if self._cost(graph, cut).loss < tolerated else whole

    def best_layers(self, graph: str, shared: QuantConfig) -> QuantConfig:
        """Returns the fastest set of layers that holds; if none does, the one that loses least."""
        configs = [
            replace(config, strength=shared.strength, percentile=shared.percentile)
            for config in SETS[graph]
        ]
        # sets are ordered by speed, so the first that holds wins and slower ones are never measured
        for config in configs:
            if self._holds(graph, config):
                return config
        return self._least_loss(graph, configs)

    def trials(self) -> list[Trial]:
        """Returns every configuration that was measured, in order."""
        return [
            Trial(graph, config, cost, self._proved.get((graph, config)))
            for (graph, config), cost in self._costs.items()
        ]

    def _cost(self, graph: str, config: QuantConfig) -> Cost:
        if (graph, config) not in self._costs:
            self._costs[graph, config] = self._measure(graph, config)
        return self._costs[graph, config]

    def _least_loss(self, graph: str, configs: Sequence[QuantConfig]) -> QuantConfig:
        return min(configs, key=lambda config: self._cost(graph, config).loss)

    def _holds(self, graph: str, config: QuantConfig) -> bool:
        # there are several times more golden inputs than trial inputs, so they are run only for a
        # configuration that may be taken
        if not self._cost(graph, config).within_gates(graph):
            return False
        self._proved[graph, config] = self._prove(graph, config)
        return self._proved[graph, config]


def cost_of(modalities: Sequence[str], found: Floats, expected: Floats, alone: Floats) -> Cost:
    """Computes a cost from embeddings.

    Args:
        modalities: modality of each input, (n,).
        found: the quantized graph's embeddings, unit rows, float32 (n, P).
        expected: PyTorch's embeddings of the same inputs, in the same form.
        alone: the quantized graph's embeddings of the first inputs, each computed by itself,
            float32 (m, P) with m ≤ n.
    """
    cosines = (found * expected).sum(axis=1)
    alone_cosines = (found[: len(alone)] * alone).sum(axis=1)
    means: dict[str, float] = {}
    neighbor_error = 0.0
    for modality in dict.fromkeys(modalities):
        members = [label == modality for label in modalities]
        means[modality] = float(cosines[members].mean())
        # texts of random tokens are left out: a model need not tell apart what it never learned
        if sum(members) > 1 and modality != RANDOM_TEXT:
            # embeddings that are all the same have no distance to divide by
            distance = max(_mean_distance(expected[members]), 1e-12)
            neighbor_error = max(neighbor_error, (1 - means[modality]) / distance)
    return Cost(means, float(cosines.min()), float(alone_cosines.min()), neighbor_error)


def _mean_distance(rows: Floats) -> float:
    """Returns the mean of 1 - cosine over all pairs of different unit rows."""
    # the squared norm of the sum is the sum of all n² cosines, n of which are of a row with itself
    count = len(rows)
    return (count - float(np.square(rows.sum(axis=0)).sum()) / count) / (count - 1)
