"""Tests of the export plan: order of passes, gates, atomic output, TensorRT-RTX builds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import floor
import numpy as np
import onnx_ir as ir
import pytest
import torch
from lame_export.__main__ import main
from lame_export.engine.network import Options, build_plan
from lame_export.model_facts import environment
from lame_export.parity.retrieval_rows import retrieval_rows
from lame_export.parity.source_rows import processor_rows, traced_rows
from lame_export.parity.verify import verify
from lame_export.passes.base import Pass
from lame_export.passes.proof.build_engines import BuildEngines
from lame_export.passes.source.prove_contract import ProveContract
from lame_export.passes.source.trace_graphs import TraceGraphs
from lame_export.quantization import weight_only
from lame_export.rewrites.nodes import add_initializer
from lame_export.state import DEFAULT_GRAPHS, ExportOptions, ExportState
from lame_runtime import Encoder, Input
from lame_runtime.backends.tensorrt.module import load_tensorrt
from lame_runtime.bundle.bundle import PARTS, Bundle
from lame_runtime.bundle.certificate import Result
from lame_runtime.bundle.golden import read_golden
from lame_runtime.contract.preparer import Visual
from lame_runtime.errors import BackendError, BundleError, ExportError, UsageError
from lame_runtime.parity import gates
from lame_runtime.parity.gates import judge
from lame_training.evaluation.retrieval import RankedPool, Vectors, embed_rows
from lame_training.model.torch_backend import load_encoder_and_model

from lame_export import plan


def test_a_bundle_holds_what_the_architecture_says(exported: Path, checkpoint: Path) -> None:
    """A bundle has the documented files and a certificate in which every gate passes."""
    names = {
        path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()
    }
    graphs = {
        f"graphs/{part}.{graph}.onnx" for part in ("vision", "encoder") for graph in DEFAULT_GRAPHS
    }
    assert {
        "manifest.json",
        "contract.json",
        "tokenizer.json",
        "parity.json",
        *graphs,
        *(f"{name}.data" for name in graphs if "fp32-cpu" not in name),
    } <= names
    # the form for CPUs shares the weights of `fp32`
    assert not any("fp32-cpu.onnx.data" in name for name in names)
    for name in ("contract.json", "tokenizer.json"):
        assert (exported / name).read_bytes() == (checkpoint / name).read_bytes()
    certificate = json.loads((exported / "parity.json").read_text())
    assert certificate["passed"] is True
    assert set(certificate["rows"][0]) == {
        "comparison",
        "graph",
        "modality",
        "inputs",
        "gate",
        "figure",
        "passed",
        "reason",
    }
    assert {row["comparison"].split(",")[0] for row in certificate["rows"]} >= {
        "contract vs transformers' processor",
        "traced forward vs transformers",
        "graph vs PyTorch",
        "alone vs in a batch",
        "finite",
        "onnx.checker",
        "lint",
        "retrieval vs PyTorch",
    }
    # the counterpart on the built-in data is in `test_builtin_data`
    assert certificate["environment"]["data"] == "given"
    assert not [row for row in certificate["rows"] if "built-in" in row["comparison"]]
    assert "data" not in {cost["name"] for cost in certificate["passes"]}
    assert not [path for path in exported.parent.iterdir() if path.name.startswith(".")]


def test_golden_inputs_cover_every_modality_and_both_extremes(exported: Path) -> None:
    """There are 64 golden inputs of each modality, the longest text and the largest picture."""
    golden = read_golden(exported)
    counts = {modality: len(golden.of(modality)) for modality in golden.modalities}
    several = {"images+text": 64, "video+text": 64}
    assert counts == {
        "image": 64,
        "image+text": 64,
        "text": 64,
        **several,
        "longest text": 1,
        "largest picture": 1,
    }
    limits = json.loads((exported / "contract.json").read_text())
    assert len(golden.inputs[golden.of("longest text")[0]].ids) >= limits["tokens"]["max_length"]


def test_an_engine_error_is_tensorrts_own_first_line(exported: Path) -> None:
    """A CPU-only graph fails with TensorRT's own message, and an unknown target is refused."""
    trt = load_tensorrt("tensorrt_rtx")
    with pytest.raises(ExportError, match=r"cannot (parse|build)"):
        build_plan(exported / "graphs/encoder.int8-cpu.onnx", [], Options(target="sm86"), trt)
    with pytest.raises(UsageError, match="unknown `target` 'sm1'"):
        build_plan(exported / "graphs/encoder.fp16.onnx", [], Options(target="sm1"), trt)


def test_a_missing_tensorrt_is_explained() -> None:
    """The message names the module and the package to install."""
    with pytest.raises(BackendError, match="pip install"):
        load_tensorrt("tensorrt_nonesuch")


@pytest.fixture
def quick_plan(exported: Path) -> tuple[Pass, ...]:
    """Returns the plan without its slow parts: FP32 graphs are copied, no engine is built."""
    return quick(exported)


def quick(exported: Path) -> tuple[Pass, ...]:
    """Returns the plan with the FP32 graphs of a bundle, and without the slowest passes."""

    class CopyTraced(TraceGraphs):
        def run(self, state: ExportState) -> None:
            state.traced = {}
            for part in PARTS:
                path = exported / f"graphs/{part}.fp32.onnx"
                state.traced[part] = ir.load(path)
                if "fp32" in state.graphs:
                    shutil.copy(path, state.folder / "graphs")
                    shutil.copy(f"{path}.data", state.folder / "graphs")

    left_out = (ProveContract, BuildEngines)
    passes = [CopyTraced() if isinstance(step, TraceGraphs) else step for step in plan.PLAN]
    return tuple(step for step in passes if not isinstance(step, left_out))


def export_with(
    passes: tuple[Pass, ...],
    folders: tuple[Path, Path, Path],
    graphs: tuple[str, ...],
    **options: object,
) -> list[Result]:
    """Exports with other passes than the plan's; `folders` are checkpoint, bundle and data."""
    checkpoint, bundle, data = folders
    parsed = ExportOptions(graphs=graphs, **options)  # type: ignore[arg-type]
    state = ExportState(checkpoint, data, bundle, parsed)
    return plan.run_export(state, passes)


def after(
    passes: tuple[Pass, ...], name: str, change: Callable[[ExportState], None]
) -> tuple[Pass, ...]:
    """Returns the passes with one inserted after pass `name` that makes a change."""

    class Planted(Pass):
        name = "planted"
        writes = tuple(entry.name for entry in dataclasses.fields(ExportState) if entry.init)

        def may_write(self, state: ExportState) -> list[str]:
            return ["*"]

        def run(self, state: ExportState) -> None:
            change(state)

        def ensures(self, state: ExportState) -> None:
            """Checks nothing."""

    changed = [[step, Planted()] if step.name == name else [step] for step in passes]
    return tuple(step for group in changed for step in group)


def perturb_weight(state: ExportState) -> None:
    path = state.path("encoder", "fp32").with_name("encoder.fp32.onnx.data")
    content = np.fromfile(path, dtype=np.float32)
    content[: len(content) // 4] += 0.05
    content.tofile(path)


def wrong_scale(state: ExportState) -> None:
    for by_name in state.quantizer.scans["encoder"].tokens.values():
        by_name |= {name: values / 50 for name, values in by_name.items()}


def plant_overflow(state: ExportState) -> None:
    """Scales one projection up and the next one down.

    The function and the range of the weights stay the same, but the activation between them
    exceeds the FP16 range.
    """
    initializers = state.traced["encoder"].graph.initializers
    # experts are a module of their own inside of the block
    stem = "blocks.0.experts" if "blocks.0.experts.up.weight_io" in initializers else "blocks.0"
    up, down = (initializers[f"{stem}.{name}.weight_io"] for name in ("up", "down"))
    assert up.const_value is not None
    gain = np.float32(30_000) / np.abs(up.const_value.numpy()).max()
    for value, factor in ((up, gain), (down, 1 / gain)):
        value.const_value = ir.tensor(value.const_value.numpy() * factor, name=value.name)  # type: ignore[union-attr]


def blind_scan(state: ExportState) -> None:
    for scan in state.quantizer.scans.values():
        scan.amax = dict.fromkeys(scan.amax, 1.0)


CONTROLS = {
    "a perturbed weight": (
        "int8-cpu",
        perturb_weight,
        ("fp32",),
        r"pass parity: gate not met: graph vs PyTorch, fp32",
    ),
    "a wrong INT8 scale": (
        "scan",
        wrong_scale,
        ("int8",),
        r"pass parity: gate not met: graph vs PyTorch, emulated, int8",
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_gate_stops_the_export_and_leaves_no_bundle(
    name: str, quick_plan: tuple[Pass, ...], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """The message gives the figure, its bound and the passes that ran before."""
    where, change, graphs, message = CONTROLS[name]
    with pytest.raises(ExportError, match=message) as caught:
        export_with(
            after(quick_plan, where, change),
            (checkpoint, tmp_path / "bundle", data),
            graphs,
            strengths=(0.0,),
        )
    assert "min_cosine" in str(caught.value)
    assert "passed before: load, golden, trace" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_overflow_planted_for_fp16_is_caught_on_the_emulation(
    quick_plan: tuple[Pass, ...], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """Without measured ranges the FP16 gate fails; with them the same graph passes.

    The ranges decide which tensors stay in FP32.
    """
    planted = after(quick_plan, "trace", plant_overflow)
    blinded = after(planted, "scan", blind_scan)
    with pytest.raises(
        ExportError, match=r"gate not met: graph vs PyTorch, emulated, fp16.*min_cosine nan"
    ):
        export_with(blinded, (checkpoint, tmp_path / "blind", data), ("fp16",))
    export_with(planted, (checkpoint, tmp_path / "seen", data), ("fp16",))
    islands = json.loads((tmp_path / "seen/parity.json").read_text())["fp16_islands"]
    assert {"blocks.0.up/MatMul", "blocks.0.down/MatMul"} <= {island["node"] for island in islands}


def test_a_wrong_traced_forward_is_caught(
    exported: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replacing one activation function fails the gate against transformers."""
    encoder, model = load_encoder_and_model(checkpoint)
    golden = read_golden(exported)
    assert all(row.passed for row in traced_rows(model, encoder.preparer, golden))
    monkeypatch.setattr(torch, "sigmoid", lambda x: torch.special.expit(x * 1.01))
    assert not any(row.passed for row in traced_rows(model, encoder.preparer, golden))


def test_neighbors_that_move_are_caught() -> None:
    """Noise on the vectors of 500 queries fails the retrieval gate.

    The gate applies only to INT8 graphs of a trained model.
    """
    rng = np.random.default_rng(0)
    documents = [Input(f"d{number}") for number in range(600)]
    rows = {
        "task": [
            RankedPool(Input(f"q{number}"), [documents[number], *documents[500:520]])
            for number in range(500)
        ]
    }

    def vectors(noise: float) -> Vectors:
        def embed(items: list[Input], role: str) -> np.ndarray:
            rows = np.stack(
                [np.random.default_rng(int(item.text[1:])).standard_normal(32) for item in items]
            )
            rows += noise * rng.standard_normal(rows.shape)
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

        return embed_rows(embed, rows)

    def verdict(noise: float, *, graph: str = "int8", gated: bool = True) -> bool | None:
        (row,) = retrieval_rows(graph, vectors(0), vectors(noise), rows, gated=gated, note="")
        return row.passed

    assert verdict(0.001) is True
    assert verdict(0.3) is False
    assert verdict(0.3, graph="fp16") is None
    assert verdict(0.3, gated=False) is None


def test_a_graph_tensorrt_cannot_build_fails_the_export(
    quick_plan: tuple[Pass, ...],
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A graph that TensorRT cannot build fails the export with TensorRT's own message."""

    def refuse(*arguments: object, **options: object) -> int:
        raise ExportError("encoder.fp16.onnx: cannot build the graph (no kernel)")

    monkeypatch.setattr("lame_export.passes.proof.build_engines.build_plan", refuse)
    position = [step.name for step in quick_plan].index("lint") + 1
    with_engine = (*quick_plan[:position], BuildEngines(), *quick_plan[position:])
    with pytest.raises(
        ExportError, match=r"pass engine: gate not met: TensorRT-RTX.*built 0 \(>= 2\).*no kernel"
    ):
        export_with(with_engine, (checkpoint, tmp_path / "bundle", data), ("fp32", "fp16"))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_contract_is_caught(
    exported: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patches in another order fail the gate against transformers' processor."""
    encoder, model = load_encoder_and_model(checkpoint)
    original = Visual.pixel_patches
    monkeypatch.setattr(
        Visual, "pixel_patches", lambda visual, contract: original(visual, contract)[:, ::-1]
    )
    rows = {
        row.modality: row
        for row in processor_rows(
            model, encoder.preparer, checkpoint / "tokenizer.json", read_golden(exported)
        )
    }
    assert rows["image"].passed is False
    assert rows["text"].passed is True


def test_a_figure_that_is_nan_or_missing_holds_no_gate() -> None:
    """A figure that was not measured never passes a gate."""
    for figure in ({"min_cosine": float("nan"), "max_abs": 0.0}, {}):
        assert judge("x", "fp32", "text", 1, gates.GRAPH_VS_PYTORCH["fp32"], figure).passed is False


def test_recheck_repeats_the_certificate_and_notices_another_checkpoint(
    exported: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """`lame-export verify` passes against its own checkpoint, and fails if one weight changed."""
    from safetensors.torch import load_file, save_file

    assert all(row.passed is not False for row in verify(exported, checkpoint))
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["embed_1D"] += 0.3
    save_file(weights, other / "model.safetensors")
    assert main(["verify", str(exported), "--against", str(other)]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bundle", "nowhere", "out", "--data", "x"], "not a complete checkpoint"),
        (["bundle", "CHECKPOINT", "out", "--data", "nowhere"], "holds no TASK.jsonl"),
        (["bundle", "CHECKPOINT", "out", "--data", "x", "--graphs", "fp8"], "unknown graph 'fp8'"),
        (["bundle", "CHECKPOINT", "BUNDLE", "--data", "x"], "already exists"),
        (["bundle", "BUNDLE", "out", "--data", "x"], "a bundle, not a checkpoint"),
        (["verify", "CHECKPOINT", "--against", "CHECKPOINT"], "this is a checkpoint"),
        (["engine", "BUNDLE", "--graph", "int8-cpu"], "int8-cpu is for ONNX Runtime"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    exported: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command exits with 2 and leaves no files."""
    monkeypatch.chdir(tmp_path)
    named = {"CHECKPOINT": str(checkpoint), "BUNDLE": str(exported)}
    assert main([named.get(argument, argument) for argument in arguments]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("pass ")]
    assert len(error) == 1
    assert message in error[0]
    assert list(tmp_path.iterdir()) == []


FEW = {"per_modality": 8, "calibration": 16}


def plant_outliers(state: ExportState) -> None:
    """Plants massive activations: a few channels of every norm become a thousand times larger.

    Large language models show the same pattern. The weights that read these channels shrink by
    the same factor, so the function stays the same.
    """
    graph = state.traced["encoder"].graph
    for node in graph:
        if node.op_type == "MatMul" and node.name.rsplit(".", 1)[-1] in (
            "q/MatMul",
            "k/MatMul",
            "v/MatMul",
            "gate/MatMul",
            "up/MatMul",
        ):
            _grow(graph, node, 1, np.float32(1e-3))
        if (
            node.op_type == "Mul"
            and node.name.split("/")[0].endswith(("norm1", "norm2"))
            and node.inputs[1].is_initializer()
        ):
            _grow(graph, node, 1, np.float32(1e3))


def _grow(graph: ir.Graph, node: ir.Node, place: int, factor: np.float32) -> None:
    value = node.inputs[place]
    assert value is not None
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[[3, 17, 40]] *= factor
    node.replace_input_with(place, add_initializer(graph, f"{node.name}.grown", ir.tensor(array)))


@pytest.mark.parametrize("graph", ["int8", "int8-cpu"])
def test_int8_survives_massive_activations_where_the_naive_form_fails(
    graph: str, quick_plan: tuple[Pass, ...], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """INT8 fails without smoothing, because three channels use up the quantization range.

    With smoothing the same model passes, and the certificate records the configuration.
    """
    planted = after(quick_plan, "trace", plant_outliers)
    folders = (checkpoint, tmp_path / "naive", data)
    with pytest.raises(ExportError, match=f"gate not met: graph vs PyTorch.*{graph}"):
        export_with(planted, folders, (graph,), strengths=(0.0,), **FEW)
    export_with(planted, (checkpoint, tmp_path / "ours", data), (graph,), **FEW)
    int8 = json.loads((tmp_path / "ours/parity.json").read_text())["int8"]
    assert int8["chosen"][graph]["strength"] > 0
    tried = {
        trial["strength"]: trial
        for trial in int8["tried"]
        if trial["graph"] == graph and trial["percentile"] == 100
    }
    assert (
        np.mean(list(tried[0]["mean_cosine"].values()))
        < 0.99
        < np.mean(list(tried[0.5]["mean_cosine"].values()))
    )


def test_weights_alone_in_eight_or_four_bits(
    quick_plan: tuple[Pass, ...], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """Weight-only graphs are certified, shrink with the bits, and do not depend on the batch."""
    folders = (checkpoint, tmp_path / "bundle", data)
    rows = export_with(quick_plan, folders, ("fp32", "w8-cpu", "w4-cpu"), **FEW)
    cosine = {
        graph: min(
            row.figure["min_cosine"]
            for row in rows
            if (row.graph, row.comparison) == (graph, "graph vs PyTorch")
        )
        for graph in ("w8-cpu", "w4-cpu")
    }
    assert cosine["w8-cpu"] > 0.9995
    assert cosine["w8-cpu"] > cosine["w4-cpu"] > 0.95
    opened = Bundle.open(tmp_path / "bundle")
    assert opened.size("w4-cpu") < opened.size("w8-cpu") < opened.size("fp32") / 2
    with Encoder.load(tmp_path / "bundle", graph="w4-cpu") as encoder:
        texts = ["seven", "a much longer text about the digits that add up to fifteen"]
        assert np.abs(encoder.encode(texts)[:1] - encoder.encode(texts[:1])).max() < 1e-5
    for graph in ("w8-cpu", "w4-cpu"):
        with Encoder.load(tmp_path / "bundle", graph=graph) as encoder:
            assert (
                floor.embed(tmp_path / "bundle", graph, list(texts)) * encoder.encode(texts)
            ).sum(axis=1).min() > 0.99999


@pytest.mark.parametrize(("graph", "bits"), [("w8-cpu", 8), ("w4-cpu", 4)])
def test_steps_that_cut_most_weights_off_fail_the_gate(
    graph: str,
    bits: int,
    quick_plan: tuple[Pass, ...],
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clipping most weights fails the gates of weight-only graphs."""
    monkeypatch.setitem(weight_only.SHARES, bits, (0.2,))
    with pytest.raises(ExportError, match=f"gate not met: graph vs PyTorch, {graph}"):
        export_with(quick_plan, (checkpoint, tmp_path / "bundle", data), (graph,), **FEW)


def test_the_engine_command_builds_into_the_bundle_outside_the_hashed_set(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plans are stored outside the hashed files, so `verify` still passes with them."""
    assert main(["engine", str(bundle), "--graph", "fp16", "--target", "sm86,sm120"]) == 0
    assert len(list((bundle / "engines").glob("fp16.latency.*/encoder.plan"))) == 2
    assert Bundle.open(bundle).check_all() > 0


def test_environment_says_with_what_a_certificate_was_made() -> None:
    """The environment records versions, machine and date."""
    assert {"torch", "transformers", "onnxruntime", "python", "machine", "date"} <= set(
        environment()
    )


def test_a_bundle_of_some_graphs_holds_only_those(
    quick_plan: tuple[Pass, ...], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """FP16 is an intermediate step to INT8 and is not shipped unless it is requested."""
    rows = export_with(quick_plan, (checkpoint, tmp_path / "bundle", data), ("int8",))
    assert {path.name.split(".")[1] for path in (tmp_path / "bundle/graphs").iterdir()} == {"int8"}
    assert {row.graph for row in rows if row.comparison.startswith("graph vs")} == {"int8"}
    with pytest.raises(BundleError):
        verify(tmp_path, checkpoint)
