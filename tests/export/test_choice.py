"""The search for an INT8 configuration: what it tries, what decides, and what it is measured on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lame_export.parity.calibration_inputs import RANDOM_TEXT, calibration_inputs, held_out
from lame_export.quantization.search import (
    CPU_SETS,
    INT8_SETS,
    MAX_NEIGHBOR_ERROR,
    PERCENTILES,
    STRENGTHS,
    Cost,
    QuantConfig,
    choose,
    cost_of,
)
from lame_runtime.bundle.golden import EXTREMES
from lame_runtime.contract.preparer import Preparer
from lame_runtime.parity import gates

Loss = Callable[[str, QuantConfig], float]


def measured(loss: Loss) -> Callable[[str, QuantConfig], Cost]:
    """Makes costs whose mean cosine is 1 - loss in each of two modalities."""

    def measure(graph: str, config: QuantConfig) -> Cost:
        lost = loss(graph, config)
        return Cost({"text": 1 - lost, "image": 1 - lost}, 1 - 2 * lost, 1.0, 0.0)

    return measure


def always_proved(graph: str, config: QuantConfig) -> bool:
    """Lets every configuration meet the gates on the golden inputs."""
    return True


def whole_range(config: QuantConfig) -> QuantConfig:
    """Drops the percentile, by which two configurations with the same layers may differ."""
    return replace(config, percentile=100.0)


def test_the_strength_that_loses_least_is_taken_for_all_graphs() -> None:
    """Every strength is tried once, on the first graph alone."""
    configs, trials = choose(
        ("int8", "int8-cpu"),
        measured(lambda _, config: 1e-3 * (0.1 + abs(config.strength - 0.5))),
        always_proved,
    )
    strengths = {graph: config.strength for graph, config in configs.items()}
    assert strengths == {"int8": 0.5, "int8-cpu": 0.5}
    tried = [trial.config.strength for trial in trials if trial.graph == "int8"]
    assert tried[: len(STRENGTHS)] == list(STRENGTHS)
    assert {trial.config.strength for trial in trials if trial.graph == "int8-cpu"} == {0.5}


@pytest.mark.parametrize(("gain", "percentile"), [(0.5, 99.9), (0.99, 100.0)])
def test_a_range_that_cuts_tokens_off_must_be_clearly_better(
    gain: float, percentile: float
) -> None:
    """A loss that is smaller by one hundredth is not enough."""
    configs, trials = choose(
        ("int8",),
        measured(lambda _, config: 1e-3 * (gain if config.percentile == 99.9 else 1)),
        always_proved,
    )
    assert configs["int8"].percentile == percentile
    assert {trial.config.percentile for trial in trials} == set(PERCENTILES)


@pytest.mark.parametrize("sets", [("int8", INT8_SETS), ("int8-cpu", CPU_SETS)])
@pytest.mark.parametrize("safe", [0, 1, 2])
def test_the_fastest_set_of_layers_within_half_the_gate_is_taken(
    sets: tuple[str, tuple[QuantConfig, ...]], safe: int
) -> None:
    """Half of a mean cosine of .99 is .995; sets slower than the one taken are not tried."""
    graph, configs = sets
    order = {config: place for place, config in enumerate(configs)}

    def loss(_: str, config: QuantConfig) -> float:
        return 0.004 if order[whole_range(config)] >= safe else 0.006

    choice, trials = choose((graph,), measured(loss), always_proved, (0.0,))
    assert order[whole_range(choice[graph])] == safe
    assert max(order[whole_range(trial.config)] for trial in trials) == safe


@pytest.mark.parametrize("refused", [0, 1, 2, 3])
def test_a_configuration_that_fails_a_gate_on_the_golden_inputs_is_not_taken(refused: int) -> None:
    """The next slower one is tried; if all fail, the one that loses least is taken."""
    proved: list[QuantConfig] = []

    def prove(graph: str, config: QuantConfig) -> bool:
        proved.append(whole_range(config))
        return proved[-1] not in INT8_SETS[:refused]

    configs, trials = choose(
        ("int8",), measured(lambda _, config: 0.002 if config.half_ends else 0.003), prove, (0.0,)
    )
    assert whole_range(configs["int8"]) == INT8_SETS[min(refused, 2)]
    assert proved == list(INT8_SETS[: refused + 1])
    outcomes = {
        whole_range(trial.config): trial.proved for trial in trials if trial.proved is not None
    }
    expected = {config: place >= refused for place, config in enumerate(INT8_SETS[: refused + 1])}
    assert outcomes == expected


def test_a_configuration_outside_of_the_gates_is_not_run_on_the_golden_inputs() -> None:
    """The trial inputs have refused it already."""
    configs, _ = choose(
        ("int8",), measured(lambda *_: 0.03), lambda *_: pytest.fail("was proved"), (0.0,)
    )
    assert configs


def test_if_no_set_is_within_the_gates_the_one_that_loses_least_is_taken() -> None:
    """A graph that gave no number loses most, and is null in the certificate's JSON."""

    def loss(_: str, config: QuantConfig) -> float:
        if config.half_ends:
            return float("nan")
        return 0.02 if config.half_layers == INT8_SETS[1].half_layers else 0.03

    configs, trials = choose(("int8",), measured(loss), always_proved, (0.0,))
    assert configs["int8"].half_layers == INT8_SETS[1].half_layers
    assert not configs["int8"].half_ends
    rows = json.loads(json.dumps([trial.to_json() for trial in trials], allow_nan=False))
    assert [row["min_cosine"] for row in rows if row["ends"]] == [None]


def test_the_certificate_keeps_its_keys() -> None:
    """Bundles that were exported before and tools that read them rely on these names."""
    _, (trial, *_) = choose(("int8-cpu",), measured(lambda *_: 0.001), always_proved, (0.0,))
    assert list(trial.to_json()) == [
        "graph",
        "strength",
        "percentile",
        "kept",
        "ends",
        "static",
        "mean_cosine",
        "min_cosine",
        "alone",
        "blur",
        "proved",
    ]


@pytest.mark.parametrize("graph", ["int8", "int8-cpu"])
@pytest.mark.parametrize(
    "worse",
    [
        {"mean_cosine": {"text": 0.9999, "image": 0.994}},
        {"min_cosine": 0.984},
        {"alone": 0.9999},
        {"neighbor_error": 2 * MAX_NEIGHBOR_ERROR},
    ],
)
def test_every_figure_and_every_modality_must_be_within(
    graph: str, worse: dict[str, object]
) -> None:
    """A single figure is enough to refuse."""
    cost = Cost({"text": 0.9999, "image": 0.9999}, 0.999, 0.99999, MAX_NEIGHBOR_ERROR / 2)
    assert cost.within_gates(graph)
    assert not replace(cost, **worse).within_gates(graph)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("GRAPH_VS_PYTORCH", {"mean_cosine": (">=", 0.999), "min_cosine": (">=", 0.97)}),
        ("GRAPH_VS_PYTORCH", {"mean_cosine": (">=", 0.99), "min_cosine": (">=", 0.999)}),
        ("ALONE_VS_BATCH", {"min_cosine": (">=", 1.0)}),
    ],
)
def test_each_graph_is_held_to_its_own_row_of_the_gates(
    table: str, row: gates.Bounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stricter row of "int8-cpu" makes the search refuse its sets, and none of "int8"."""

    def measure(graph: str, config: QuantConfig) -> Cost:
        return Cost({"text": 0.999}, 0.998, 0.99999, 0.0)

    configs, _ = choose(("int8", "int8-cpu"), measure, always_proved, (0.0,))
    assert configs == {"int8": INT8_SETS[0], "int8-cpu": CPU_SETS[0]}
    monkeypatch.setitem(getattr(gates, table), "int8-cpu", row)
    _, trials = choose(("int8", "int8-cpu"), measure, always_proved, (0.0,))
    proved = [(trial.graph, trial.config) for trial in trials if trial.proved is not None]
    assert proved == [("int8", INT8_SETS[0])]
    assert [trial.config for trial in trials if trial.graph == "int8-cpu"] == list(CPU_SETS)


def test_the_cost_is_measured_by_modality() -> None:
    """Means by modality, smallest cosines, and the error relative to the embeddings' distance."""
    rng = np.random.default_rng(0)

    def unit(rows: np.ndarray) -> np.ndarray:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    far, near = rng.standard_normal((6, 32)), np.ones((6, 32)) + 0.05 * rng.standard_normal((6, 32))
    expected = unit(np.concatenate([far, near]))
    vectors = unit(expected + 0.01 * rng.standard_normal(expected.shape))
    alone = expected[:2]
    cost = cost_of(["far"] * 6 + ["near"] * 6, vectors, expected, alone)
    cosines = (vectors * expected).sum(axis=1)
    means = {"far": cosines[:6].mean(), "near": cosines[6:].mean()}
    assert cost.mean_cosine == pytest.approx(means)
    assert cost.min_cosine == pytest.approx(cosines.min())
    assert cost.alone == pytest.approx(cosines[:2].min())
    between = expected[6:] @ expected[6:].T
    distance = 1 - (between.sum() - 6) / 30
    error = (1 - cosines[6:].mean()) / distance
    assert cost.neighbor_error == pytest.approx(error, rel=1e-3)
    with_random_texts = cost_of(["far"] * 6 + [RANDOM_TEXT] * 6, vectors, expected, alone)
    assert with_random_texts.neighbor_error < cost.neighbor_error


def test_held_out_inputs_are_not_calibrated_on(data: Path, preparer: Preparer) -> None:
    """A quarter of each modality is; both sides have extremes and random texts of their own."""
    calibrated, trial = held_out(calibration_inputs(data, 12, preparer), preparer)
    data_modalities = ("text", "image", "image+text", "images+text", "video+text")
    assert set(calibrated) == set(trial) == {*data_modalities, *EXTREMES, RANDOM_TEXT}
    for modality in data_modalities:
        assert (len(calibrated[modality]), len(trial[modality])) == (9, 3)
        ids = {id(item) for _, item in calibrated[modality]}
        assert not ids & {id(item) for _, item in trial[modality]}
    assert {role for entries in trial.values() for role, _ in entries} == {"query", "document"}
    texts = [item.parts for _, item in (*calibrated[RANDOM_TEXT], *trial[RANDOM_TEXT])]
    assert len(set(texts)) == len(texts)
