"""Each family from a backbone's folder through export to the torch-free runtime, and the controls of what is its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import floor
import numpy as np
import onnx_ir as ir
import pytest
from lame_export.calibration import Scan, scan_batches
from lame_export.engine import ladder
from lame_export.engine.network import Options, build_plan
from lame_export.engine.profiles import LARGEST_BATCH, Widths, derive
from lame_export.errors import ExportError
from lame_export.forward import encoder as forward
from lame_export.passes.fused import fuse
from lame_export.passes.smooth import smooth
from lame_export.plan import export
from lame_export.streamed import StreamedBackend, copy_of
from lame_runtime import Encoder, Input, batching
from lame_runtime.backends._tensorrt import load_tensorrt
from lame_runtime.batching import assemble
from lame_runtime.bundle import PARTS
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract.tower import window_tables
from lame_runtime.golden import read_golden
from lame_training.backbones import FAMILIES
from lame_training.loop import initialise
from lame_training.recipes import find_recipe
from lame_training.torch_backend import load_encoder, load_encoder_and_model
from PIL import Image
from test_plan import after, blind_scan, plant_overflow, quick

from lame_export import parity

MODALITIES = {"text", "image", "image+text", "images+text", "video+text", "longest text", "largest picture"}


@dataclass(frozen=True)
class Made:
    """One family's checkpoint and bundle."""

    family: str
    checkpoint: Path
    bundle: Path


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, backbones: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Initialised, not trained: a few steps would make all embeddings alike, and parity easy."""
    root = tmp_path_factory.mktemp(request.param)
    initialise(find_recipe("digits-tiny"), root / "checkpoint", backbones[request.param])
    export(root / "checkpoint", root / "bundle", data, per_modality=8, calibration=16, strengths=(0.5,))
    return Made(request.param, root / "checkpoint", root / "bundle")


def test_every_gate_is_met_for_every_kind_of_input(made: Made) -> None:
    """FP32, FP16, INT8 and CPU INT8; texts, pictures, several pictures, videos; the builds of TensorRT-RTX."""
    certificate = json.loads((made.bundle / "parity.json").read_text())
    assert certificate["passed"]
    rows = {(row["comparison"], row["graph"], row["modality"]): row for row in certificate["rows"]}
    for graph, comparison in (
        ("fp32", "graph vs PyTorch"),
        ("int8-cpu", "graph vs PyTorch"),
        ("fp16", "graph vs PyTorch, emulated"),
        ("int8", "graph vs PyTorch, emulated"),
    ):
        assert {modality for name, of, modality in rows if (name, of) == (comparison, graph)} == MODALITIES
    assert {of for name, of, _ in rows if name.startswith("TensorRT-RTX")} == {"fp32", "fp16", "int8"}
    assert {modality for name, _, modality in rows if name == "contract vs transformers' processor"} == MODALITIES
    assert certificate["golden_spread"]["mean_cosine"] < 0.9, "the inputs are too alike for parity to mean something"


def test_inputs_no_golden_vector_has_agree_with_pytorch(made: Made) -> None:
    """Other sizes, other texts, an odd number of frames; batched as they come."""
    rng = np.random.default_rng(1)

    def picture(width: int, height: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    items: list[object] = [
        "数字加起来是十五 🙂",
        picture(1, 1),
        {"image": [picture(300, 40), picture(40, 300)], "text": "compare"},
        {"content": ["first", picture(90, 90), "second", picture(60, 120)], "instruction": "Find it."},
        {"video": [picture(80, 50) for _ in range(5)], "fps": 3.0, "text": "what happens"},
        {"video": [picture(50, 80)]},
    ]
    with load_encoder(made.checkpoint) as reference, Encoder.load(made.bundle) as encoder:
        assert np.abs(reference.encode(items, role="query") - encoder.encode(items, role="query", batch_size=4)).max() < 1e-5


def test_a_bundle_of_any_family_embeds_without_pytorch(made: Made, tmp_path: Path) -> None:
    """By the command line, in a process whose imports are watched."""
    Image.effect_noise((90, 60), 90).convert("RGB").save(tmp_path / "a.png")
    Image.effect_noise((90, 60), 90).convert("RGB").save(tmp_path / "b.pdf", save_all=True, append_images=[Image.new("RGB", (50, 50))])
    (tmp_path / "c.jsonl").write_text(json.dumps({"video": ["a.png", "a.png", "a.png"], "text": "three frames"}) + "\n")
    paths = [str(tmp_path / name) for name in ("a.png", "b.pdf", "c.jsonl")]
    code = (
        "import sys; from lame_runtime.__main__ import main;"
        f"options = ['--text', 'seven', '--max-pixels', '12544', '-o', {str(tmp_path / 'v.npy')!r}];"
        f"code = main(['embed', {str(made.bundle)!r}, *{paths!r}, *options]);"
        "found = {'torch', 'transformers', 'onnx'} & set(sys.modules); sys.exit(code or (3 if found else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (5, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


SMOOTHED = {
    "qwen2_vl": {"vision": 8, "encoder": 12},
    "qwen2_5_vl": {"vision": 12, "encoder": 12},  # its gated MLP has a place for `down` too
    "qwen3_vl": {"vision": 10, "encoder": 12},  # its deepstack norms what is merged already
}
"""Activations: two norms a block, `o` and `down` where something in front of them takes the factors."""
IN_THE_ENCODER = {"Attention": 2, "MultiHeadAttention": 0, "SkipSimplifiedLayerNormalization": 6}
FUSED = {
    "qwen2_vl": {"Attention": 0, "MultiHeadAttention": 4, "SkipSimplifiedLayerNormalization": 0},
    "qwen2_5_vl": {"Attention": 0, "MultiHeadAttention": 2, "SkipSimplifiedLayerNormalization": 8},  # two blocks see windows
    "qwen3_vl": {"Attention": 0, "MultiHeadAttention": 4, "SkipSimplifiedLayerNormalization": 0},
}
"""In the vision tower."""


def test_smoothed_and_fused_graphs_compute_the_same(made: Made) -> None:
    """Every activation that has a place to fold the factors into is smoothed, every full attention fused; the vectors stay."""
    preparer, golden = Preparer.load(made.bundle), read_golden(made.bundle)
    models = {part: ir.load(made.bundle / f"graphs/{part}.fp32.onnx") for part in PARTS}
    items = [golden.inputs[index].item for modality in golden.modalities for index in golden.of(modality)[:2]]
    batch = assemble([preparer(item) for item in items], preparer.contract)
    scans = scan_batches(models, {"mixed": [batch]})
    plain = embedded(preparer, models, items)
    smoothed = {part: copy_of(model) for part, model in models.items()}
    assert {part: smooth(model, scans[part].channels, 0.6) for part, model in smoothed.items()} == SMOOTHED[made.family]
    flat = scan_batches(smoothed, {"mixed": [batch]})
    assert all(unevenness(flat[part]) < unevenness(scans[part]) - 0.05 for part in PARTS)
    fused = {part: copy_of(model) for part, model in smoothed.items()}
    assert {part: fuse(model) for part, model in fused.items()} == {"vision": FUSED[made.family], "encoder": IN_THE_ENCODER}
    for changed in (smoothed, fused):
        assert np.abs(embedded(preparer, changed, items) - plain).max() < 1e-6


def embedded(preparer: Preparer, models: dict[str, ir.Model], items: list[Input]) -> np.ndarray:
    with Encoder(preparer, StreamedBackend(models["vision"], models["encoder"], optimise=False)) as encoder:
        return encoder.encode(items, batch_size=64)


def unevenness(scan: Scan) -> float:
    """How far the largest channel of an activation reaches beyond the median one: the mean logarithm."""
    return float(np.mean([np.log(each.max() / max(np.median(each), 1e-9)) for each in scan.channels.values()]))


@pytest.mark.parametrize("graph", ["fp32", "int8-cpu"])
def test_graphs_run_on_the_oldest_onnx_runtime(graph: str, made: Made, data: Path) -> None:
    """The extras promise it; every operator of the fused graphs has a kernel there that computes the same."""
    picture = str(data / "images/eval/3-00001.png")
    items: list[object] = ["fifteen", {"image": picture}, {"image": [picture, picture], "text": "compare"}]
    with Encoder.load(made.bundle, graph=graph) as encoder:
        cosine = (floor.embed(made.bundle, graph, items) * encoder.encode(items)).sum(axis=1)
    assert cosine.min() > 0.99999


def traced_fails(made: Made) -> set[str]:
    encoder, model = load_encoder_and_model(made.checkpoint)
    rows = parity.traced_rows(model, encoder.preparer, read_golden(made.bundle))
    return {row.modality for row in rows if not row.passed}


def test_the_traced_forward_is_transformers_own(made: Made) -> None:
    """For every kind of input."""
    assert traced_fails(made) == set()


def wrong_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    original = forward.axis_frequencies
    monkeypatch.setattr(forward, "axis_frequencies", lambda rotary, config: original(rotary, config).roll(1, dims=0))


def other_tables(monkeypatch: pytest.MonkeyPatch, where: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Other tables for the vision tower of the family that has the table `where`."""
    original = batching.tower_tables

    def changed(grid: tuple[int, int], contract: Any) -> dict[str, Any]:
        tables = original(grid, contract)
        return {**tables, **change(tables)} if where in tables else tables

    monkeypatch.setattr(batching, "tower_tables", changed)


def no_deepstack(monkeypatch: pytest.MonkeyPatch) -> None:
    original = parity.TracedBackend.__init__

    def without(backend: parity.TracedBackend, model: Any) -> None:
        original(backend, model)
        backend._encoder.levels = 0

    monkeypatch.setattr(parity.TracedBackend, "__init__", without)


CONTROLS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], tuple[str, ...], str]] = {
    "the axes of M-RoPE": (wrong_axes, tuple(FAMILIES), "image"),
    "smaller windows": (
        lambda m: other_tables(m, "window_index", lambda t: window_tables(t["patch_positions"], 4)),
        ("qwen2_5_vl",),
        "largest picture",
    ),
    "the weights of the interpolation": (
        lambda m: other_tables(
            m, "interpolation_weight", lambda t: {"interpolation_weight": np.full_like(t["interpolation_weight"], 0.25)}
        ),
        ("qwen3_vl",),
        "image",
    ),
    "the deepstack": (no_deepstack, ("qwen3_vl",), "image"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_what_is_a_familys_own_is_seen_when_it_is_wrong(name: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controls of the gate against transformers."""
    change, families, modality = CONTROLS[name]
    change(monkeypatch)
    assert (modality in traced_fails(made)) == (made.family in families)


def test_the_scan_protects_an_outlier_that_overflows_half(made: Made, data: Path, tmp_path: Path) -> None:
    """Planted in each family: without the scan FP16 fails, with it the same graph passes because it makes islands."""
    planted = after(quick(made.bundle), "trace", plant_overflow)
    options = {"per_modality": 8, "calibration": 16}
    with pytest.raises(ExportError, match=r"gate not met: graph vs PyTorch, emulated, fp16"):
        export(made.checkpoint, tmp_path / "blind", data, ("fp16",), plan=after(planted, "scan", blind_scan), **options)  # type: ignore[arg-type]
    export(made.checkpoint, tmp_path / "seen", data, ("fp16",), plan=planted, **options)  # type: ignore[arg-type]
    islands = json.loads((tmp_path / "seen/parity.json").read_text())["fp16_islands"]
    assert {"blocks.0.up/MatMul", "blocks.0.down/MatMul"} <= {island["node"] for island in islands}


TINY = {"encoder": Widths(64, 128, 2), "vision": Widths(64, 128, 2)}
"""Smaller than the models, so that memory bounds nothing."""


def in_fp32(trt: Any, network: Any) -> int:
    """Layers whose first result is FP32."""
    return sum(network.get_layer(index).get_output(0).dtype == trt.DataType.FLOAT for index in range(network.num_layers))


@pytest.mark.parametrize("graph", ["fp16", "int8"])
@pytest.mark.parametrize("rung", [1, 2])
def test_every_rung_builds_with_the_real_builder(made: Made, graph: str, rung: int) -> None:
    """TensorRT-RTX takes the edited networks; each rung computes more layers in FP32 than the one below. The export built rung 0."""
    trt = load_tensorrt("tensorrt_rtx")
    profiles = derive(Contract.load(made.bundle / "contract.json"), TINY, "latency", 1 << 33)
    for part in PARTS:
        wide: list[int] = []

        def edit(trt: Any, network: Any, wide: list[int] = wide) -> None:
            for number in range(rung + 1):
                ladder.edit(number, trt, network)
                wide.append(in_fp32(trt, network))

        plan, _ = build_plan(made.bundle / f"graphs/{part}.{graph}.onnx", profiles[part][:1], Options(target="sm86"), trt, edit=edit)
        assert len(plan) > 100_000
        assert wide == sorted(set(wide)), "each rung widens"


def test_throughput_profiles_build_with_the_real_builder(exported: Path) -> None:
    """All buckets of both parts, in batches as large as two gibibytes allow."""
    trt = load_tensorrt("tensorrt_rtx")
    profiles = derive(Contract.load(exported / "contract.json"), TINY, "throughput", 2 << 30)
    assert profiles["encoder"][0]["batch"][2] == LARGEST_BATCH["throughput"]
    for part in PARTS:
        plan, _ = build_plan(exported / f"graphs/{part}.fp16.onnx", profiles[part], Options(target="sm86"), trt)
        assert len(plan) > 100_000
