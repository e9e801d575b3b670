"""`lame-export bisect` finds a planted fault at its layer, and corrects it if that is possible."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from lame_export.__main__ import main
from lame_export.bisect import bisection, graph_errors, island_search
from lame_export.bisect.bisection import compare, golden_batches
from lame_export.bisect.bisection_result import BisectionResult
from lame_export.bisect.island_search import error_jumps
from lame_export.bisect.module_outputs import TorchValues
from lame_export.bisect.report import draw, table
from lame_export.parity.traced_backend import TracedBackend
from lame_runtime.backends.tensorrt import cudart
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.contract.batch import Batch, Floats
from lame_training.model.torch_backend import load_encoder_and_model
from recording_gpu import RecordingCudart, make_tensorrt


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> TracedBackend:
    """PyTorch, running the forward that is traced."""
    encoder, model = load_encoder_and_model(checkpoint)
    return TracedBackend(model, encoder.preparer.contract)


def run(
    exported: Path,
    reference: TracedBackend,
    graph: str,
    plant: Callable[[dict[str, ir.Model]], None] | None = None,
) -> BisectionResult:
    """Compares a graph of a bundle with PyTorch after a fault was planted in it."""
    traced = {part: ir.load(exported / f"graphs/{part}.fp32.onnx") for part in PARTS}
    models = {part: ir.load(exported / f"graphs/{part}.{graph}.onnx") for part in PARTS}
    if plant is not None:
        plant(models)
    # Three modalities with two inputs each are enough, and fast.
    batches = golden_batches(exported, 2)
    modalities = ("image", "text", "image+text")
    return compare(
        reference, traced, models, graph, {modality: batches[modality] for modality in modalities}
    )


def scale_constant(model: ir.Model, name: str, factor: float) -> None:
    """Multiplies a constant of a graph by a factor."""
    value = model.graph.initializers[name]
    assert value.const_value is not None
    array = value.const_value.numpy()
    value.const_value = ir.tensor(
        (array.astype(np.float32) * factor).astype(array.dtype), name=name
    )


@pytest.mark.parametrize("graph", ["fp32", "fp16", "int8", "int8-cpu"])
def test_a_sound_graph_stays_with_pytorch(
    exported: Path, reference: TracedBackend, graph: str
) -> None:
    """Modules of both parts are compared; FP32 differs in the last bits, FP16 more, INT8 most."""
    result = run(exported, reference, graph)
    assert result.islands == []
    assert [modality.first for modality in result.modalities] == [None] * 3
    errors = {
        name: error for modality in result.modalities for name, error in modality.errors.items()
    }
    assert {
        "vision.patch_embed",
        "vision.blocks.1",
        "vision.merger.fc2",
        "encoder.blocks.0.down",
        "encoder.norm",
        "encoder.unit",
    } <= set(errors)
    # The lower bounds show that the graph under test really computes at its own precision.
    low, high = {
        "fp32": (0, 1e-6),
        "fp16": (1e-4, 1.5e-3),
        "int8": (2e-3, 0.03),
        "int8-cpu": (2e-3, 0.045),
    }[graph]
    assert low <= max(errors.values()) <= high


def test_smoothed_values_are_compared_channel_by_channel(
    exported: Path, reference: TracedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the factors, a sound graph seems wrong at a layer that was smoothed."""
    monkeypatch.setattr(graph_errors, "_unscaled", lambda value, expected: value)
    result = run(exported, reference, "int8")
    assert {modality.first for modality in result.modalities} == {"encoder.blocks.1.up"}


@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_a_wrong_weight_is_found_and_no_island_corrects_it(
    exported: Path, reference: TracedBackend, part: str
) -> None:
    """The layer itself is named, for the modalities that go through it."""
    layer = {"vision": "blocks.1.mlp.fc1", "encoder": "blocks.0.up"}[part]
    result = run(
        exported,
        reference,
        "fp16",
        lambda models: scale_constant(models[part], f"{layer}.weight_io.half", 3),
    )
    for modality in result.modalities:
        # A text alone does not go through the vision tower.
        affected = part == "encoder" or "image" in modality.modality
        assert modality.first == (f"{part}.{layer}" if affected else None), modality
        if affected:
            assert modality.jump == f"{part}.{layer}"
    # A wrong weight stays wrong in FP32.
    assert result.islands is None or all(modality.passed for modality in result.modalities)


def narrow_range(models: dict[str, ir.Model]) -> None:
    """Clips the activation that `gate` and `up` of a block read to a twentieth of its range."""
    # `gate` and `up` share the activation, whose scale is the second input of its DequantizeLinear.
    (node,) = [node for node in models["encoder"].graph if node.name == "blocks.1.up/MatMul"]
    dequantized = node.inputs[0].producer()
    scale_constant(models["encoder"], dequantized.inputs[1].name, 0.05)


def test_a_range_that_is_too_small_is_found_and_corrected(
    exported: Path, reference: TracedBackend, tmp_path: Path
) -> None:
    """The islands are the layers that read the range and no others."""
    result = run(exported, reference, "int8", narrow_range)
    assert {modality.first for modality in result.modalities} <= {
        "encoder.blocks.1.gate",
        "encoder.blocks.1.up",
    }
    assert not any(modality.passed for modality in result.modalities)
    assert set(result.islands or ()) == {"encoder.blocks.1.gate", "encoder.blocks.1.up"}
    text = table(result)
    assert "encoder.blocks.1.gate" in text
    assert "corrected by computing with activations that are not quantized" in text
    draw(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_modules_outside_the_blocks_have_no_neighbors() -> None:
    """Errors are ignored within a block only: the head counts those of the last block."""
    errors = {
        "encoder.blocks.1.up": 0.5,
        "encoder.blocks.10.gate": 0.01,
        "encoder.blocks.10.up": 0.5,
        "encoder.head": 0.5,
    }
    # For INT8, errors below 0.0025 are noise.
    jumps = error_jumps(errors, "int8", skip_same_block=True)
    assert jumps["encoder.head"] == 1
    # Block 1 is another block, although its name begins like that of block 10.
    assert jumps["encoder.blocks.10.up"] == 1
    without = error_jumps({**errors, "encoder.blocks.1.up": 0.0}, "int8", skip_same_block=True)
    assert without["encoder.blocks.10.up"] == 200, "the gate is in the same block"


def test_islands_that_are_not_needed_are_dropped(
    exported: Path, reference: TracedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two layers that do not help get the largest jumps, and are not among the islands."""
    real = island_search.error_jumps

    def misled(
        errors: Mapping[str, float], graph: str, *, skip_same_block: bool = False
    ) -> dict[str, float]:
        jumps = real(errors, graph, skip_same_block=skip_same_block)
        return jumps | {"encoder.blocks.0.q": 1e9, "encoder.head": 1e8}

    monkeypatch.setattr(island_search, "error_jumps", misled)
    assert set(run(exported, reference, "int8", narrow_range).islands or ()) == {
        "encoder.blocks.1.gate",
        "encoder.blocks.1.up",
    }


def test_pytorch_values_are_kept_for_one_modality_at_a_time(
    exported: Path, reference: TracedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model's values of several modalities would not fit into memory together."""
    real, references = bisection.torch_values, []

    def watched(reference: TracedBackend, batch: Batch) -> tuple[Floats, TorchValues]:
        assert all(value() is None for value in references)
        embeddings, values = real(reference, batch)
        # Weak, so that watching the arrays does not keep them.
        references.extend(weakref.ref(array) for arrays in values.values() for array in arrays)
        return embeddings, values

    monkeypatch.setattr(bisection, "torch_values", watched)
    assert run(exported, reference, "fp16").islands == []
    assert len(references) > 100


def test_the_command_prints_a_table_or_json(
    exported: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--plot` draws beside it; the exit code is 0 if every gate is met, and 2 for wrong use."""
    command = ["bisect", str(exported), str(checkpoint), "--graph", "fp16", "--inputs", "1"]
    assert main([*command, "--plot", str(tmp_path / "a.png")]) == 0
    assert "nothing to correct" in capsys.readouterr().out
    assert (tmp_path / "a.png").is_file()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modalities"][0]["passed"]
    assert main([*command[:-1], "0"]) == 2
    assert main(["bisect", str(exported), str(checkpoint), "--graph", "fp8"]) == 2


def test_tensorrt_is_bisected_by_marked_outputs(
    exported: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same modules are compared as on the CPU, and nothing is left on the GPU."""
    gpu = RecordingCudart(total=1 << 32)
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(gpu))
    monkeypatch.setattr(cudart, "load_cudart", lambda: gpu)
    bundle = shutil.copytree(exported, tmp_path / "bundle")
    command = ["bisect", str(bundle), str(checkpoint), "--graph", "fp32", "--inputs", "1", "--json"]
    assert main([*command, "--module", "tensorrt"]) == 0
    on_device = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    on_cpu = json.loads(capsys.readouterr().out)
    for theirs, ours in zip(on_device["modalities"], on_cpu["modalities"], strict=True):
        assert list(theirs["errors"]) == list(ours["errors"])
        assert max(theirs["errors"].values()) < 1e-5
    gpu.assert_released()
    # A graph of operators that only ONNX Runtime's CPU provider has.
    command = ["bisect", str(bundle), str(checkpoint), "--graph", "int8-cpu"]
    assert main([*command, "--module", "tensorrt"]) == 2


def test_a_tensorrt_that_does_not_start_is_one_line(
    exported: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The bindings raise `TypeError` in that case; the message has TensorRT's reason instead."""
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(RecordingCudart(devices=0)))
    # CUDA itself works, so that TensorRT is the first to fail.
    monkeypatch.setattr(cudart, "load_cudart", RecordingCudart)
    command = ["bisect", str(exported), str(checkpoint), "--graph", "fp32", "--inputs", "1"]
    assert main([*command, "--module", "tensorrt"]) == 1
    error = capsys.readouterr().err
    assert "tensorrt 10.3.0 does not start (CUDA initialization failure)" in error
    assert error.count("\n") == 1


def test_a_plot_does_not_replace_what_is_read(
    exported: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--plot checkpoint/model.safetensors` would destroy the weights."""
    for folder in (exported, checkpoint):
        before = sorted(folder.rglob("*"))
        for name in ("model.safetensors", "error.png"):
            command = ["bisect", str(exported), str(checkpoint), "--plot", str(folder / name)]
            assert main(command) == 2
            assert "is inside the" in capsys.readouterr().err
        assert sorted(folder.rglob("*")) == before
