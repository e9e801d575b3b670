"""The choice of how to quantise: what is tried, what decides, and what inputs it is measured on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lame_export.choice import BLUR, CPU_SETS, INT8_SETS, PERCENTILES, STRENGTHS, Cost, Way, choose, cost_of
from lame_export.golden_set import ANY, calibration_inputs, held_out
from lame_runtime.contract.preparer import Preparer
from lame_runtime.golden import EXTREMES

Loss = Callable[[str, Way], float]


def measured(loss: Loss) -> Callable[[str, Way], Cost]:
    """Costs whose mean cosine is 1 - loss in each of two modalities."""

    def measure(graph: str, way: Way) -> Cost:
        lost = loss(graph, way)
        return Cost({"text": 1 - lost, "image": 1 - lost}, 1 - 2 * lost, 1.0, 0.0)

    return measure


def holds(graph: str, way: Way) -> bool:
    """Every way meets the gates on the golden inputs."""
    return True


def test_the_strength_that_loses_least_is_taken_for_all_graphs() -> None:
    """Every strength is tried once, on the first graph alone."""
    chosen, tried = choose(("int8", "int8-cpu"), measured(lambda _, way: 1e-3 * (0.1 + abs(way.strength - 0.5))), holds)
    assert {graph: way.strength for graph, way in chosen.items()} == {"int8": 0.5, "int8-cpu": 0.5}
    assert [each.way.strength for each in tried if each.graph == "int8"][: len(STRENGTHS)] == list(STRENGTHS)
    assert {each.way.strength for each in tried if each.graph == "int8-cpu"} == {0.5}


@pytest.mark.parametrize(("gain", "percentile"), [(0.5, 99.9), (0.99, 100.0)])
def test_a_range_that_cuts_tokens_off_must_be_clearly_better(gain: float, percentile: float) -> None:
    """One hundredth less is not enough."""
    chosen, tried = choose(("int8",), measured(lambda _, way: 1e-3 * (gain if way.percentile == 99.9 else 1)), holds)
    assert chosen["int8"].percentile == percentile
    assert {each.way.percentile for each in tried} == set(PERCENTILES)


@pytest.mark.parametrize("sets", [("int8", INT8_SETS), ("int8-cpu", CPU_SETS)])
@pytest.mark.parametrize("safe", [0, 1, 2])
def test_the_fastest_set_of_layers_within_half_the_gate_is_taken(sets: tuple[str, tuple[Way, ...]], safe: int) -> None:
    """Half of a mean cosine of .99 is .995; slower sets than the one taken are not tried."""
    graph, ways = sets
    order = {replace(way, strength=0.0): place for place, way in enumerate(ways)}

    def loss(_: str, way: Way) -> float:
        return 0.004 if order[replace(way, strength=0.0, percentile=100.0)] >= safe else 0.006

    chosen, tried = choose((graph,), measured(loss), holds, (0.0,))
    assert order[replace(chosen[graph], percentile=100.0)] == safe
    assert max(order[replace(each.way, percentile=100.0)] for each in tried) == safe


@pytest.mark.parametrize("refused", [0, 1, 2, 3])
def test_a_way_that_fails_a_gate_on_the_golden_inputs_is_not_taken(refused: int) -> None:
    """The next slower one is, and a way that is not within is not even asked; where all fail, the one that loses least is taken."""
    asked: list[Way] = []

    def prove(graph: str, way: Way) -> bool:
        asked.append(replace(way, percentile=100.0))
        return asked[-1] not in INT8_SETS[:refused]

    chosen, tried = choose(("int8",), measured(lambda _, way: 0.002 if way.ends else 0.003), prove, (0.0,))
    assert replace(chosen["int8"], percentile=100.0) == INT8_SETS[min(refused, 2)]
    assert asked == list(INT8_SETS[: refused + 1])
    assert {replace(each.way, percentile=100.0): each.proved for each in tried if each.proved is not None} == {
        way: place >= refused for place, way in enumerate(INT8_SETS[: refused + 1])
    }
    none, _ = choose(("int8",), measured(lambda _, way: 0.03), lambda *_: pytest.fail("asked"), (0.0,))
    assert none


def test_where_no_set_is_within_the_one_that_loses_least_is_taken() -> None:
    """And a graph that gave no number loses most."""

    def loss(_: str, way: Way) -> float:
        return float("nan") if way.ends else 0.02 if way.kept == INT8_SETS[1].kept else 0.03

    chosen, tried = choose(("int8",), measured(loss), holds, (0.0,))
    assert chosen["int8"].kept == INT8_SETS[1].kept
    assert not chosen["int8"].ends
    said = json.loads(json.dumps([each.to_json() for each in tried], allow_nan=False))
    assert [each["min_cosine"] for each in said if each["ends"]] == [None]


@pytest.mark.parametrize(
    "worse", [{"mean_cosine": {"text": 0.9999, "image": 0.994}}, {"min_cosine": 0.984}, {"alone": 0.9999}, {"blur": 2 * BLUR}]
)
def test_every_figure_and_every_modality_must_be_within(worse: dict[str, object]) -> None:
    """One alone is enough to refuse."""
    cost = Cost({"text": 0.9999, "image": 0.9999}, 0.999, 0.99999, BLUR / 2)
    assert cost.within
    assert not replace(cost, **worse).within  # type: ignore[arg-type]


def test_the_cost_is_measured_by_modality() -> None:
    """Means by modality, the least of all, mates, and the error beside the distance of what lies close together."""
    rng = np.random.default_rng(0)

    def unit(rows: np.ndarray) -> np.ndarray:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    far, near = rng.standard_normal((6, 32)), np.ones((6, 32)) + 0.05 * rng.standard_normal((6, 32))
    expected = unit(np.concatenate([far, near]))
    found = unit(expected + 0.01 * rng.standard_normal(expected.shape))
    alone = expected[:2]
    cost = cost_of(["far"] * 6 + ["near"] * 6, found, expected, alone)
    apart = (found * expected).sum(axis=1)
    assert cost.mean_cosine == pytest.approx({"far": apart[:6].mean(), "near": apart[6:].mean()})
    assert cost.min_cosine == pytest.approx(apart.min())
    assert cost.alone == pytest.approx(apart[:2].min())
    cosines = expected[6:] @ expected[6:].T
    between = 1 - (cosines.sum() - 6) / 30
    assert cost.blur == pytest.approx((1 - apart[6:].mean()) / between, rel=1e-3)
    assert cost_of(["far"] * 6 + [ANY] * 6, found, expected, alone).blur < cost.blur


def test_what_is_held_out_is_not_calibrated_on(data: Path, preparer: Preparer) -> None:
    """A quarter of each modality, both extremes, and random texts that differ."""
    measured_on, trial = held_out(calibration_inputs(data, 12, preparer), preparer)
    assert set(measured_on) == set(trial) == {"text", "image", "image+text", "images+text", "video+text", *EXTREMES, ANY}
    for modality in ("text", "image", "image+text", "images+text", "video+text"):
        assert (len(measured_on[modality]), len(trial[modality])) == (9, 3)
        assert not {id(item) for _, item in measured_on[modality]} & {id(item) for _, item in trial[modality]}
    assert {role for some in trial.values() for role, _ in some} == {"query", "document"}
    texts = [item.parts for _, item in (*measured_on[ANY], *trial[ANY])]
    assert len(set(texts)) == len(texts)
