"""The plan: passes in order, gates that stop it, a bundle only at the end, engines from real TensorRT-RTX."""

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
from lame_export.errors import ExportError
from lame_export.passes import weight_only
from lame_export.passes.nodes import add_initializer
from lame_export.recheck import recheck
from lame_runtime import Encoder, Input, gates
from lame_runtime.backends._tensorrt import load_tensorrt
from lame_runtime.bundle import Bundle
from lame_runtime.contract.preparer import Visual
from lame_runtime.errors import BackendError, BundleError, InputError
from lame_runtime.gates import judge
from lame_runtime.golden import read_golden
from lame_runtime.retrieval import Row, Vectors, embed_rows
from lame_training.torch_backend import load_encoder_and_model

from lame_export import parity, plan, steps


def test_a_bundle_holds_what_the_architecture_says(exported: Path, checkpoint: Path) -> None:
    """Files, and a certificate in which every gate holds."""
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    graphs = {f"graphs/{part}.{graph}.onnx" for part in ("vision", "encoder") for graph in plan.USUAL}
    assert {"manifest.json", "contract.json", "tokenizer.json", "parity.json", *graphs, *(f"{name}.data" for name in graphs)} <= names
    for name in ("contract.json", "tokenizer.json"):
        assert (exported / name).read_bytes() == (checkpoint / name).read_bytes()
    certificate = json.loads((exported / "parity.json").read_text())
    assert certificate["passed"] is True
    assert set(certificate["rows"][0]) == {"comparison", "graph", "modality", "inputs", "gate", "figure", "passed", "reason"}
    assert {row["comparison"].split(",")[0] for row in certificate["rows"]} >= {
        "contract vs transformers' processor", "traced forward vs transformers", "graph vs PyTorch", "alone vs in a batch", "finite",
        "onnx.checker", "lint", "retrieval vs PyTorch",
    }  # fmt: skip
    assert not [path for path in exported.parent.iterdir() if path.name.startswith(".")]


def test_golden_inputs_cover_every_modality_and_both_extremes(exported: Path) -> None:
    """64 of each, the longest text and the largest picture."""
    golden = read_golden(exported)
    counts = {modality: len(golden.of(modality)) for modality in golden.modalities}
    several = {"images+text": 64, "video+text": 64}
    assert counts == {"image": 64, "image+text": 64, "text": 64, **several, "longest text": 1, "largest picture": 1}
    limits = json.loads((exported / "contract.json").read_text())
    assert len(golden.inputs[golden.of("longest text")[0]].ids) >= limits["tokens"]["max_length"]


def test_an_engine_error_is_tensorrts_own_first_line(exported: Path) -> None:
    """A graph for CPUs alone does not parse; an unknown target is refused by name."""
    trt = load_tensorrt("tensorrt_rtx")
    with pytest.raises(ExportError, match=r"cannot (parse|build)"):
        build_plan(exported / "graphs/encoder.int8-cpu.onnx", [], Options(target="sm86"), trt)
    with pytest.raises(InputError, match="unknown target 'sm1'"):
        build_plan(exported / "graphs/encoder.fp16.onnx", [], Options(target="sm1"), trt)


def test_a_missing_tensorrt_is_explained() -> None:
    """Per module, with what to install."""
    with pytest.raises(BackendError, match="pip install"):
        load_tensorrt("tensorrt_nonesuch")


@pytest.fixture
def quick_plan(exported: Path) -> tuple[plan.Pass, ...]:
    return quick(exported)


def quick(exported: Path) -> tuple[plan.Pass, ...]:
    """The plan with three passes shortened, for speed: the FP32 graphs and the contract are those of a bundle, no engine is built."""

    def copy_traced(state: plan.Export) -> None:
        for part in steps.PARTS:
            path = exported / f"graphs/{part}.fp32.onnx"
            state.traced[part] = ir.load(path)
            if "fp32" in state.graphs:
                shutil.copy(path, state.folder / "graphs")
                shutil.copy(f"{path}.data", state.folder / "graphs")

    short = {"trace": copy_traced, "contract": lambda state: None, "engine": lambda state: None}
    return tuple(dataclasses.replace(each, run=short.get(each.name, each.run)) for each in plan.PLAN)


def after(passes: tuple[plan.Pass, ...], name: str, change: Callable[[plan.Export], None]) -> tuple[plan.Pass, ...]:
    """The passes with `change` made right after pass `name`."""

    def both(run: Callable[[plan.Export], None]) -> Callable[[plan.Export], None]:
        def changed(state: plan.Export) -> None:
            run(state)
            change(state)

        return changed

    return tuple(dataclasses.replace(each, run=both(each.run)) if each.name == name else each for each in passes)


def perturb_weight(state: plan.Export) -> None:
    path = state.path("encoder", "fp32").with_name("encoder.fp32.onnx.data")
    content = np.fromfile(path, dtype=np.float32)
    content[: len(content) // 4] += 0.05
    content.tofile(path)


def wrong_scale(state: plan.Export) -> None:
    for by_name in state.quantiser.scans["encoder"].tokens.values():
        by_name |= {name: values / 50 for name, values in by_name.items()}


def plant_overflow(state: plan.Export) -> None:
    """Scales one projection up and the next one down: the function and the weights' range stay, what lies between leaves half's range."""
    initializers = state.traced["encoder"].graph.initializers
    up, down = (initializers[f"blocks.0.{name}.weight_io"] for name in ("up", "down"))
    assert up.const_value is not None
    gain = np.float32(30_000) / np.abs(up.const_value.numpy()).max()
    for value, factor in ((up, gain), (down, 1 / gain)):
        value.const_value = ir.tensor(value.const_value.numpy() * factor, name=value.name)  # type: ignore[union-attr]


def blind_scan(state: plan.Export) -> None:
    for scan in state.quantiser.scans.values():
        scan.amax = dict.fromkeys(scan.amax, 1.0)


CONTROLS = {
    "a perturbed weight": ("int8-cpu", perturb_weight, ("fp32",), r"pass parity: gate not met: graph vs PyTorch, fp32"),
    "a wrong INT8 scale": ("scan", wrong_scale, ("int8",), r"pass parity: gate not met: graph vs PyTorch, emulated, int8"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_gate_stops_the_export_and_leaves_no_bundle(
    name: str, quick_plan: tuple[plan.Pass, ...], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """The figure and its bound are named, with the passes that ran before."""
    where, change, graphs, message = CONTROLS[name]
    with pytest.raises(ExportError, match=message) as caught:
        plan.export(checkpoint, tmp_path / "bundle", data, graphs, strengths=(0.0,), plan=after(quick_plan, where, change))
    assert "min_cosine" in str(caught.value)
    assert "passed before: load, golden, trace" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_overflow_planted_for_fp16_is_caught_on_the_emulation(
    quick_plan: tuple[plan.Pass, ...], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """With the scan blinded the FP16 gate fails; with the scan at work the same graph passes, because it makes islands."""
    planted = after(quick_plan, "trace", plant_overflow)
    with pytest.raises(ExportError, match=r"gate not met: graph vs PyTorch, emulated, fp16.*min_cosine nan"):
        plan.export(checkpoint, tmp_path / "blind", data, ("fp16",), plan=after(planted, "scan", blind_scan))
    plan.export(checkpoint, tmp_path / "seen", data, ("fp16",), plan=planted)
    islands = json.loads((tmp_path / "seen/parity.json").read_text())["fp16_islands"]
    assert {"blocks.0.up/MatMul", "blocks.0.down/MatMul"} <= {island["node"] for island in islands}


def test_a_wrong_traced_forward_is_caught(exported: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the gate against transformers: another activation in one place."""
    encoder, model = load_encoder_and_model(checkpoint)
    golden = read_golden(exported)
    assert all(row.passed for row in parity.traced_rows(model, encoder.preparer, golden))
    monkeypatch.setattr(torch, "sigmoid", lambda x: torch.special.expit(x * 1.01))
    assert not any(row.passed for row in parity.traced_rows(model, encoder.preparer, golden))


def test_neighbours_that_move_are_caught() -> None:
    """The control of the retrieval gate: 500 queries, vectors as they are and with noise; only INT8 of a trained model is gated."""
    rng = np.random.default_rng(0)
    documents = [Input(f"d{number}") for number in range(600)]
    rows = {"task": [Row(Input(f"q{number}"), [documents[number], *documents[500:520]]) for number in range(500)]}

    def vectors(noise: float) -> Vectors:
        def embed(items: list[Input], role: str) -> np.ndarray:
            found = np.stack([np.random.default_rng(int(item.text[1:])).standard_normal(32) for item in items])
            found += noise * rng.standard_normal(found.shape)
            return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

        return embed_rows(embed, rows)

    def verdict(noise: float, *, graph: str = "int8", trained: bool = True) -> bool | None:
        (row,) = parity.retrieval_rows(graph, vectors(0), vectors(noise), rows, trained=trained, note="")
        return row.passed

    assert verdict(0.001) is True
    assert verdict(0.3) is False
    assert verdict(0.3, graph="fp16") is None
    assert verdict(0.3, trained=False) is None


def test_a_graph_tensorrt_cannot_build_fails_the_export(
    quick_plan: tuple[plan.Pass, ...], checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the gate on builds: TensorRT's own words are in the message."""

    def refuse(*arguments: object, **options: object) -> int:
        raise ExportError("encoder.fp16.onnx: cannot build the graph (no kernel)")

    monkeypatch.setattr("lame_export.steps.build_plan", refuse)
    with_engine = tuple(own if own.name == "engine" else quick for own, quick in zip(plan.PLAN, quick_plan, strict=True))
    with pytest.raises(ExportError, match=r"pass engine: gate not met: TensorRT-RTX.*built 0 \(>= 2\).*no kernel"):
        plan.export(checkpoint, tmp_path / "bundle", data, ("fp32", "fp16"), plan=with_engine)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_contract_is_caught(exported: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the gate against transformers' processor: patches in another order."""
    encoder, model = load_encoder_and_model(checkpoint)
    original = Visual.patches
    monkeypatch.setattr(Visual, "patches", lambda visual, contract: original(visual, contract)[:, ::-1])
    rows = {
        row.modality: row for row in parity.processor_rows(model, encoder.preparer, checkpoint / "tokenizer.json", read_golden(exported))
    }
    assert rows["image"].passed is False
    assert rows["text"].passed is True


def test_a_figure_that_is_nan_or_missing_holds_no_gate() -> None:
    """Nothing passes by not being measured."""
    for figure in ({"min_cosine": float("nan"), "max_abs": 0.0}, {}):
        assert judge("x", "fp32", "text", 1, gates.GRAPH_VS_PYTORCH["fp32"], figure).passed is False


def test_recheck_repeats_the_certificate_and_notices_another_checkpoint(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    """`lame-export verify`: passes against its own checkpoint, fails against one with a changed weight."""
    from safetensors.torch import load_file, save_file

    assert all(row.passed is not False for row in recheck(exported, checkpoint))
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["embed_1D"] += 0.3
    save_file(weights, other / "model.safetensors")
    assert main(["verify", str(exported), "--against", str(other)]) == 1


def test_a_plan_whose_order_is_wrong_says_what_is_missing(tmp_path: Path) -> None:
    """The message names the pass, the fact, and what ran."""
    state = plan.Export(tmp_path, tmp_path, ("fp32",), tmp_path)
    with pytest.raises(ExportError, match=r"pass fp16 requires \['fp32', 'ranges'\].*ran: none"):
        plan.run_plan(state, tuple(each for each in plan.PLAN if each.name == "fp16"), lambda name: None)


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
    """Exit code 2, nothing left behind."""
    monkeypatch.chdir(tmp_path)
    named = {"CHECKPOINT": str(checkpoint), "BUNDLE": str(exported)}
    assert main([named.get(each, each) for each in arguments]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("pass ")]
    assert len(error) == 1
    assert message in error[0]
    assert list(tmp_path.iterdir()) == []


FEW = {"per_modality": 8, "calibration": 16}


def plant_outliers(state: plan.Export) -> None:
    """Massive activations, as large language models have them: a few channels of every norm reach a thousand times further.

    The weights that read them are as much smaller, so the function stays.
    """
    graph = state.traced["encoder"].graph
    for node in graph:
        if node.op_type == "MatMul" and node.name.rsplit(".", 1)[-1] in ("q/MatMul", "k/MatMul", "v/MatMul", "gate/MatMul", "up/MatMul"):
            _grow(graph, node, 1, np.float32(1e-3))
        if node.op_type == "Mul" and node.name.split("/")[0].endswith(("norm1", "norm2")) and node.inputs[1].is_initializer():
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
    graph: str, quick_plan: tuple[plan.Pass, ...], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """Without smoothing three channels take all the steps; with it the same model passes, and the certificate says how."""
    planted = after(quick_plan, "trace", plant_outliers)
    with pytest.raises(ExportError, match=f"gate not met: graph vs PyTorch.*{graph}"):
        plan.export(checkpoint, tmp_path / "naive", data, (graph,), strengths=(0.0,), plan=planted, **FEW)  # type: ignore[arg-type]
    plan.export(checkpoint, tmp_path / "ours", data, (graph,), plan=planted, **FEW)  # type: ignore[arg-type]
    said = json.loads((tmp_path / "ours/parity.json").read_text())["int8"]
    assert said["chosen"][graph]["strength"] > 0
    tried = {each["strength"]: each for each in said["tried"] if each["graph"] == graph and each["percentile"] == 100}
    assert np.mean(list(tried[0]["mean_cosine"].values())) < 0.99 < np.mean(list(tried[0.5]["mean_cosine"].values()))


def test_weights_alone_in_eight_or_four_bits(quick_plan: tuple[plan.Pass, ...], checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Certified, smaller with fewer bits, and no vector depends on its batch mates."""
    rows = plan.export(checkpoint, tmp_path / "bundle", data, ("fp32", "w8-cpu", "w4-cpu"), plan=quick_plan, **FEW)  # type: ignore[arg-type]
    cosine = {
        graph: min(row.figure["min_cosine"] for row in rows if (row.graph, row.comparison) == (graph, "graph vs PyTorch"))
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
            assert (floor.embed(tmp_path / "bundle", graph, list(texts)) * encoder.encode(texts)).sum(axis=1).min() > 0.99999


@pytest.mark.parametrize(("graph", "bits"), [("w8-cpu", 8), ("w4-cpu", 4)])
def test_steps_that_cut_most_weights_off_fail_the_gate(
    graph: str,
    bits: int,
    quick_plan: tuple[plan.Pass, ...],
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control of the gates of weights alone."""
    monkeypatch.setitem(weight_only.SHARES, bits, (0.2,))
    with pytest.raises(ExportError, match=f"gate not met: graph vs PyTorch, {graph}"):
        plan.export(checkpoint, tmp_path / "bundle", data, (graph,), plan=quick_plan, **FEW)  # type: ignore[arg-type]


def test_the_engine_command_builds_into_the_bundle_outside_the_hashed_set(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plans belong to a device; verify still passes beside them."""
    assert main(["engine", str(bundle), "--graph", "fp16", "--target", "sm86,sm120"]) == 0
    assert len(list((bundle / "engines").glob("fp16.latency.*/encoder.plan"))) == 2
    assert Bundle.open(bundle).check_all() > 0


def test_environment_says_with_what_a_certificate_was_made() -> None:
    """Versions, machine and date."""
    assert {"torch", "transformers", "onnxruntime", "python", "machine", "date"} <= set(steps.environment())


def test_a_bundle_of_some_graphs_holds_only_those(quick_plan: tuple[plan.Pass, ...], checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """FP16 is made on the way to INT8 and not shipped."""
    rows = plan.export(checkpoint, tmp_path / "bundle", data, ("int8",), plan=quick_plan)
    assert {path.name.split(".")[1] for path in (tmp_path / "bundle/graphs").iterdir()} == {"int8"}
    assert {row.graph for row in rows if row.comparison.startswith("graph vs")} == {"int8"}
    with pytest.raises(BundleError):
        recheck(tmp_path, checkpoint)
