"""Tests how an export plans its memory, and that one that cannot fit does not start."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from lame_export.__main__ import main
from lame_export.memory_plan import MemoryPlan, plan_memory
from lame_export.parity import judged
from lame_export.passes.proof.build_engines import BuildEngines
from lame_export.quantization import calibration, lazy_batches
from lame_export.quantization.lazy_batches import LazyBatches
from lame_export.state import ExportOptions, ExportState
from lame_export.streaming.running import StoredPieces
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.bundle.certificate import read_certificate
from lame_runtime.bundle.golden import read_golden
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract.batch import Floats
from lame_runtime.contract.prompts import Input
from lame_runtime.encoder import Encoder
from lame_runtime.errors import ExportError
from lame_runtime.machine.memory import GIB

from lame_export import memory_plan, plan, verify

WIDTHS = {"encoder": {"hidden": 2048, "mlp": 6144}, "vision": {"hidden": 1024, "mlp": 4096}}
TABLE = 311_000_000


@pytest.fixture
def contract(checkpoint: Path) -> Contract:
    """Returns a contract of the digits with a published recipe's limit of tokens."""
    contract = Contract.load(checkpoint / "contract.json")
    return dataclasses.replace(
        contract, tokens=dataclasses.replace(contract.tokens, max_length=8192)
    )


def test_more_tokens_and_wider_layers_need_more(contract: Contract) -> None:
    """The estimate grows with the longest input and the largest weight."""
    base = plan_memory(WIDTHS, TABLE, contract, None).needed
    assert 5e9 < base < 7e9
    assert plan_memory(WIDTHS, TABLE // 2, contract, None).needed < base
    shorter = dataclasses.replace(
        contract, tokens=dataclasses.replace(contract.tokens, max_length=512)
    )
    assert plan_memory(WIDTHS, TABLE, shorter, None).needed < base


@pytest.mark.parametrize(
    ("available", "gib", "message"),
    [
        (4 * GIB, None, r"needs \d\.\d GB of memory, and 3\.9 GB are available here"),
        (64 * GIB, 2.0, r", and `memory` allows 2\.1 GB: "),
        (2 * GIB, 64.0, r", and 2\.1 GB are available here: "),
    ],
)
def test_a_job_that_cannot_fit_is_refused(
    available: int,
    gib: float | None,
    message: str,
    contract: Contract,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message says what it needs, what there is, and what to change."""
    monkeypatch.setattr(memory_plan, "available_memory", lambda: available)
    with pytest.raises(ExportError, match=message) as caught:
        plan_memory(WIDTHS, TABLE, contract, gib)
    assert "up to 8,192 tokens" in str(caught.value)
    assert "use a larger machine" in str(caught.value)


def test_a_system_that_tells_nothing_is_not_refused(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other systems only a limit that is asked for can be checked."""
    monkeypatch.setattr(memory_plan, "available_memory", lambda: None)
    assert plan_memory(WIDTHS, TABLE, contract, None).needed > 0
    with pytest.raises(ExportError, match="`memory` allows"):
        plan_memory(WIDTHS, TABLE, contract, 1.0)


def test_an_export_that_cannot_fit_ends_before_it_computes(
    checkpoint: Path,
    exported: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message names the flag, and the first pass is the only one; `verify` does the same."""
    command = ["bundle", str(checkpoint), str(tmp_path / "bundle"), "--data", str(data)]
    assert main([*command, "--memory", "0.5"]) == 1
    errors = capsys.readouterr().err
    assert "pass golden" not in errors
    assert "--memory allows 0.5 GB" in errors
    assert not list(tmp_path.iterdir())
    assert main(["verify", str(exported), "--against", str(checkpoint), "--memory", "0.5"]) == 1
    assert "--memory allows 0.5 GB" in capsys.readouterr().err
    with pytest.raises(ExportError, match="`memory` allows"):
        verify(exported, checkpoint, memory=0.5)


@pytest.mark.parametrize("graph", ["fp16", "fp32-cpu"])
def test_little_memory_gives_the_same_vectors(
    graph: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that may not be kept runs in pieces, and one for CPUs stays mapped."""
    golden = read_golden(exported)
    items = [golden.inputs[golden.of(modality)[0]].item for modality in golden.modalities[:3]]
    pieces: list[int] = []
    mapped: list[bool] = []
    run, backend = StoredPieces.run, judged.OrtBackend

    def counted(self: StoredPieces, *arguments: object) -> object:
        pieces.append(len(self.pieces))
        return run(self, *arguments)  # type: ignore[arg-type]

    def opened(*arguments: object, map_weights: bool) -> object:
        mapped.append(map_weights)
        return backend(*arguments, map_weights=map_weights)  # type: ignore[arg-type]

    monkeypatch.setattr(StoredPieces, "run", counted)
    monkeypatch.setattr(judged, "OrtBackend", opened)

    def embedded(limit: int) -> Floats:
        state = ExportState(exported, exported, exported, ExportOptions(graphs=(graph,)))
        state.memory = MemoryPlan(limit, 1 << 30)
        state.reference = Encoder(Preparer.load(exported), FakeBackend(8), "unused")
        with judged.judged_encoder(state, graph) as encoder:
            return encoder.encode(items)

    plenty = embedded(16 << 30)
    assert not pieces
    assert not any(mapped)
    tight = embedded(1 << 30)
    assert bool(pieces) == (graph == "fp16")
    assert mapped == ([] if graph == "fp16" else [False, True])
    assert np.abs(plenty - tight).max() < 1e-5


def test_plans_that_do_not_fit_are_not_built(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row without a gate says so; with memory the same pass builds."""
    built: list[str] = []
    monkeypatch.setattr(
        "lame_export.passes.proof.build_engines._build",
        lambda state, graph, *_: built.append(graph),
    )
    monkeypatch.setattr("lame_export.passes.proof.build_engines.load_tensorrt", lambda _: None)
    monkeypatch.setattr("lame_export.passes.proof.build_engines.derive_profiles", lambda *_: {})
    monkeypatch.setattr("lame_export.passes.proof.build_engines.model_widths", lambda _: {})

    class Reference:
        preparer = Preparer.load(exported)

    state = ExportState(tmp_path, tmp_path, exported, ExportOptions(graphs=("fp16", "int8-cpu")))
    state.model = state.reference = Reference()  # type: ignore[assignment]
    state.memory = MemoryPlan(1 << 30, 1 << 29)
    BuildEngines().run(state)
    assert [(row.graph, row.modality, row.passed) for row in state.rows] == [
        ("fp16", "too large for this memory", None)
    ]
    state.memory = MemoryPlan(16 << 30, 1 << 29)
    BuildEngines().run(state)
    assert built == ["fp16"]


def test_the_certificate_says_what_each_pass_took(exported: Path) -> None:
    """Time and peak memory, in the plan's order; the last pass writes the file."""
    passes = read_certificate(exported).passes
    names = [step.name for step in plan.PLAN]
    assert [cost.name for cost in passes] == [
        name for name in names if name in {cost.name for cost in passes}
    ]
    assert {"load", "golden", "parity"} <= {cost.name for cost in passes}
    assert all(cost.seconds >= 0 for cost in passes)
    if passes[0].peak_memory is not None:
        assert all(10**8 < (cost.peak_memory or 0) < 10**11 for cost in passes)
        assert "peak memory" in passes[0].describe()


def test_calibration_inputs_are_prepared_few_at_a_time(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows end at their size; every input is in one batch, in each of two passes."""
    preparer = Preparer.load(checkpoint)
    inputs = {
        "text": [("query", Input(f"digits {number}")) for number in range(40)],
        "image": [],
    }
    whole = [(modality, batch.input_ids.shape) for modality, batch in LazyBatches(inputs, preparer)]
    assert sum(shape[0] for _, shape in whole) == 40
    assert whole == [
        (modality, batch.input_ids.shape) for modality, batch in LazyBatches(inputs, preparer)
    ]
    monkeypatch.setattr(lazy_batches, "WINDOW_BYTES", -1)
    single = list(LazyBatches(inputs, preparer))
    assert [batch.input_ids.shape[0] for _, batch in single] == [1] * 40
    # the groups of one pass over the weights are limited, too
    monkeypatch.setattr(calibration, "GROUP_TOKENS", 3 * single[0][1].input_ids.size)
    groups = list(calibration._groups(single))  # noqa: SLF001
    assert len(groups) > 8
    assert sum(len(group) for group in groups) == 40
