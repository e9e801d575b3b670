"""`lame-export bisect`: a planted fault is found where it was planted, and mended where that can be."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from lame_export.__main__ import main
from lame_export.bisect import compare as bisecting
from lame_export.bisect import values
from lame_export.bisect.compare import Bisected, compare, jumps
from lame_export.bisect.report import draw, table
from lame_export.parity import TracedBackend
from lame_runtime.backends import _cudart
from lame_runtime.backends.base import Batch, Floats
from lame_training.torch_backend import load_encoder_and_model
from recording_gpu import RecordingCudart, make_tensorrt


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> TracedBackend:
    """PyTorch."""
    return TracedBackend(load_encoder_and_model(checkpoint)[1])


def run(exported: Path, reference: TracedBackend, graph: str, plant: Callable[[dict[str, ir.Model]], None] | None = None) -> Bisected:
    """The graph of a bundle with a fault planted in it."""
    names = {part: ir.load(exported / f"graphs/{part}.fp32.onnx") for part in bisecting.PARTS}
    models = {part: ir.load(exported / f"graphs/{part}.{graph}.onnx") for part in bisecting.PARTS}
    if plant is not None:
        plant(models)
    batches = bisecting._batches(exported, 2)
    return compare(reference, names, models, graph, {each: batches[each] for each in ("image", "text", "image+text")})


def change(model: ir.Model, name: str, factor: float) -> None:
    """Scales a constant."""
    value = model.graph.initializers[name]
    assert value.const_value is not None
    array = value.const_value.numpy()
    value.const_value = ir.tensor((array.astype(np.float32) * factor).astype(array.dtype), name=name)


@pytest.mark.parametrize("graph", ["fp32", "fp16", "int8", "int8-cpu"])
def test_a_sound_graph_stays_with_pytorch(exported: Path, reference: TracedBackend, graph: str) -> None:
    """Every module of both parts is a point; FP32 differs by last bits, and errors grow from FP16 to INT8."""
    found = run(exported, reference, graph)
    assert found.islands == []
    assert [each.first for each in found.modalities] == [None] * 3
    errors = {name: error for each in found.modalities for name, error in each.errors.items()}
    assert {"vision.patch_embed", "vision.blocks.1", "vision.merger.fc2", "encoder.blocks.0.down", "encoder.norm", "encoder.unit"} <= set(
        errors
    )
    low, high = {"fp32": (0, 1e-6), "fp16": (1e-4, 1.5e-3), "int8": (2e-3, 0.03), "int8-cpu": (2e-3, 0.045)}[graph]
    assert low <= max(errors.values()) <= high


def test_what_smoothing_divided_is_compared_by_channel(exported: Path, reference: TracedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the factors a sound graph would seem to leave PyTorch where it was smoothed."""
    monkeypatch.setattr(values, "_unscaled", lambda found, expected: found)
    assert {each.first for each in run(exported, reference, "int8").modalities} == {"encoder.blocks.1.up"}


@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_a_wrong_weight_is_found_and_no_island_mends_it(exported: Path, reference: TracedBackend, part: str) -> None:
    """At the layer itself, for the modalities that go through it."""
    layer = {"vision": "blocks.1.mlp.fc1", "encoder": "blocks.0.up"}[part]
    found = run(exported, reference, "fp16", lambda models: change(models[part], f"{layer}.weight_io.half", 3))
    for each in found.modalities:
        concerned = part == "encoder" or "image" in each.modality
        assert each.first == (f"{part}.{layer}" if concerned else None), each
        if concerned:
            assert each.jump == f"{part}.{layer}"
    assert found.islands is None or all(each.passed for each in found.modalities)


def narrow(models: dict[str, ir.Model]) -> None:
    """Clips the activation that `gate` and `up` of a block read to a twentieth of its range."""
    (node,) = [node for node in models["encoder"].graph if node.name == "blocks.1.up/MatMul"]
    restored = node.inputs[0].producer()
    change(models["encoder"], restored.inputs[1].name, 0.05)


def test_a_range_that_is_too_small_is_found_and_mended(exported: Path, reference: TracedBackend, tmp_path: Path) -> None:
    """By the layers that read it and no others, computed with what was not quantised."""
    found = run(exported, reference, "int8", narrow)
    assert {each.first for each in found.modalities} <= {"encoder.blocks.1.gate", "encoder.blocks.1.up"}
    assert not any(each.passed for each in found.modalities)
    assert set(found.islands or ()) == {"encoder.blocks.1.gate", "encoder.blocks.1.up"}
    text = table(found)
    assert "encoder.blocks.1.gate" in text
    assert "mended by computing with activations that are not quantised" in text
    draw(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_lies_outside_the_blocks_has_no_neighbours() -> None:
    """The head follows an error of the last block; only layers of one block are beside each other."""
    errors = {"encoder.blocks.1.up": 0.5, "encoder.blocks.10.gate": 0.01, "encoder.blocks.10.up": 0.5, "encoder.head": 0.5}
    found = jumps(errors, "int8", beside=True)
    assert found["encoder.head"] == 1
    assert found["encoder.blocks.10.up"] == 1
    assert jumps({**errors, "encoder.blocks.1.up": 0.0}, "int8", beside=True)["encoder.blocks.10.up"] == 200, "the gate is beside it"


def test_islands_that_are_not_needed_are_dropped(exported: Path, reference: TracedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers with the largest jumps, planted in front of those that mend it."""
    real = bisecting.jumps

    def misled(errors: dict[str, float], graph: str, *, beside: bool = False) -> dict[str, float]:
        return real(errors, graph, beside=beside) | ({"encoder.blocks.0.q": 1e9, "encoder.head": 1e8} if beside else {})

    monkeypatch.setattr(bisecting, "jumps", misled)
    assert set(run(exported, reference, "int8", narrow).islands or ()) == {"encoder.blocks.1.gate", "encoder.blocks.1.up"}


def test_what_pytorch_computed_is_kept_for_one_modality_at_a_time(
    exported: Path, reference: TracedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large model they would not fit into memory together; the embeddings stay, for the islands."""
    real, seen = bisecting.torch_values, []

    def watched(reference: TracedBackend, batch: Batch) -> tuple[Floats, values.Values]:
        assert all(each() is None for each in seen)
        embeddings, found = real(reference, batch)
        seen.extend(weakref.ref(array) for arrays in found.values() for array in arrays)
        return embeddings, found

    monkeypatch.setattr(bisecting, "torch_values", watched)
    assert run(exported, reference, "fp16").islands == []
    assert len(seen) > 100


def test_the_command_prints_a_table_or_json(exported: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a plot beside it; exit code 0 where every gate is met."""
    command = ["bisect", str(exported), str(checkpoint), "--graph", "fp16", "--inputs", "1"]
    assert main([*command, "--plot", str(tmp_path / "a.png")]) == 0
    assert "nothing to mend" in capsys.readouterr().out
    assert (tmp_path / "a.png").is_file()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modalities"][0]["passed"]
    assert main([*command[:-1], "0"]) == 2
    assert main(["bisect", str(exported), str(checkpoint), "--graph", "fp8"]) == 2


def test_tensorrt_is_bisected_by_marked_outputs(
    exported: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same points, read back from the GPU; nothing is left on it."""
    gpu = RecordingCudart(total=1 << 32)
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(gpu))
    monkeypatch.setattr(_cudart, "_load", lambda: gpu)
    bundle = shutil.copytree(exported, tmp_path / "bundle")
    command = ["bisect", str(bundle), str(checkpoint), "--graph", "fp32", "--inputs", "1", "--json"]
    assert main([*command, "--module", "tensorrt"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    ours = json.loads(capsys.readouterr().out)
    for theirs, mine in zip(found["modalities"], ours["modalities"], strict=True):
        assert list(theirs["errors"]) == list(mine["errors"])
        assert max(theirs["errors"].values()) < 1e-5
    gpu.assert_released()
    assert main(["bisect", str(bundle), str(checkpoint), "--graph", "int8-cpu", "--module", "tensorrt"]) == 2


def test_where_tensorrt_does_not_start_it_is_one_line(
    exported: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bindings raise TypeError there."""
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(RecordingCudart(devices=0)))
    monkeypatch.setattr(_cudart, "_load", lambda: RecordingCudart())
    assert main(["bisect", str(exported), str(checkpoint), "--graph", "fp32", "--inputs", "1", "--module", "tensorrt"]) == 1
    error = capsys.readouterr().err
    assert "tensorrt 10.3.0 does not start (CUDA initialization failure)" in error
    assert error.count("\n") == 1
