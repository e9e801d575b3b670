"""Every family, from a backbone's folder through the export to the torch-free runtime.

What only one family has is broken in turn, and the gates must see it.
"""

from __future__ import annotations

import json
import shutil
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
import torch
from lame_export.engine import fallback_levels
from lame_export.engine.network import Options, build_plan
from lame_export.engine.profiles import LARGEST_BATCH, Widths, derive_profiles
from lame_export.forward import encoder as forward
from lame_export.parity.source_rows import traced_rows
from lame_export.parity.traced_backend import TracedBackend
from lame_export.plan import export
from lame_export.quantization.calibration import Scan, scan_batches
from lame_export.quantization.smoothing import smooth
from lame_export.rewrites.fuse import fuse
from lame_export.streaming.pieces import copy_of
from lame_export.streaming.streamed_backend import StreamedBackend
from lame_runtime import Encoder, Input
from lame_runtime.backends.tensorrt.module import load_tensorrt
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.bundle.golden import read_golden
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract import batch as contract_batch
from lame_runtime.contract.batch import assemble
from lame_runtime.contract.tower import window_tables
from lame_runtime.errors import ExportError
from lame_training.model.backbones import FAMILIES, read_config
from lame_training.model.torch_backend import load_encoder, load_encoder_and_model
from lame_training.recipes.catalog import find_recipe
from lame_training.run.initialization import initialize
from PIL import Image
from test_plan import after, blind_scan, export_with, plant_overflow, quick

MODALITIES = {
    "text",
    "image",
    "image+text",
    "images+text",
    "video+text",
    "longest text",
    "largest picture",
}


@dataclass(frozen=True)
class Made:
    """A checkpoint of one family, and the bundle exported from it."""

    family: str
    checkpoint: Path
    bundle: Path


@pytest.fixture(scope="module", params=FAMILIES)
def made(
    request: pytest.FixtureRequest,
    backbones: dict[str, Path],
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """Exports an untrained model: a few steps would make all embeddings alike, and parity easy."""
    root = tmp_path_factory.mktemp(request.param)
    initialize(find_recipe("digits-tiny"), root / "checkpoint", backbones[request.param])
    export(
        root / "checkpoint", root / "bundle", data, per_modality=8, calibration=16, strengths=(0.5,)
    )
    return Made(request.param, root / "checkpoint", root / "bundle")


def test_every_gate_is_met_for_every_kind_of_input(made: Made) -> None:
    """FP32, FP16, INT8 and CPU INT8 meet them for every modality; TensorRT-RTX builds."""
    certificate = json.loads((made.bundle / "parity.json").read_text())
    assert certificate["passed"]
    rows = {(row["comparison"], row["graph"], row["modality"]): row for row in certificate["rows"]}
    for graph, comparison in (
        ("fp32", "graph vs PyTorch"),
        ("int8-cpu", "graph vs PyTorch"),
        ("fp16", "graph vs PyTorch, emulated"),
        ("int8", "graph vs PyTorch, emulated"),
    ):
        judged = {row[2] for row in rows if row[:2] == (comparison, graph)}
        assert judged == MODALITIES
    built = {graph for name, graph, _ in rows if name.startswith("TensorRT-RTX")}
    assert built == {"fp32", "fp16", "int8"}
    processed = {row[2] for row in rows if row[0] == "contract vs transformers' processor"}
    assert processed == MODALITIES
    spread = certificate["golden_spread"]["mean_cosine"]
    assert spread < 0.9, "the inputs are too alike for parity to mean something"


def test_inputs_no_golden_vector_has_agree_with_pytorch(made: Made) -> None:
    """Other sizes, other texts and an odd number of frames, batched as they come."""
    rng = np.random.default_rng(1)

    def picture(width: int, height: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    items: list[object] = [
        "数字加起来是十五 🙂",
        picture(1, 1),
        {"image": [picture(300, 40), picture(40, 300)], "text": "compare"},
        {
            "content": ["first", picture(90, 90), "second", picture(60, 120)],
            "instruction": "Find it.",
        },
        {"video": [picture(80, 50) for _ in range(5)], "fps": 3.0, "text": "what happens"},
        {"video": [picture(50, 80)]},
    ]
    with load_encoder(made.checkpoint) as reference, Encoder.load(made.bundle) as encoder:
        expected = reference.encode(items, role="query")
        vectors = encoder.encode(items, role="query", batch_size=4)
    assert np.abs(expected - vectors).max() < 1e-5


def test_a_bundle_of_any_family_embeds_without_pytorch(made: Made, tmp_path: Path) -> None:
    """The command line embeds, in a process whose imports are watched."""
    Image.effect_noise((90, 60), 90).convert("RGB").save(tmp_path / "a.png")
    Image.effect_noise((90, 60), 90).convert("RGB").save(
        tmp_path / "b.pdf", save_all=True, append_images=[Image.new("RGB", (50, 50))]
    )
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"video": ["a.png", "a.png", "a.png"], "text": "three frames"}) + "\n"
    )
    paths = [str(tmp_path / name) for name in ("a.png", "b.pdf", "c.jsonl")]
    options = ["--text", "seven", "--max-pixels", "12544", "-o", str(tmp_path / "v.npy")]
    arguments = ["embed", str(made.bundle), *paths, *options]
    code = (
        "import sys; from lame_runtime.__main__ import main;"
        f"code = main({arguments!r});"
        "unwanted = {'torch', 'transformers', 'onnx'} & set(sys.modules);"
        "sys.exit(code or (3 if unwanted else 0))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (5, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


SMOOTHED = {
    "qwen2_vl": {"vision": 8, "encoder": 12},
    # in a gated MLP `up` takes the factors of `down`
    "qwen2_5_vl": {"vision": 12, "encoder": 12},
    # the deepstack mergers norm merged patches, right in front of their first layer
    "qwen3_vl": {"vision": 10, "encoder": 12},
    # of the wide layers of experts, `up` takes the factors of `down`, too
    "qwen3_vl_moe": {"vision": 10, "encoder": 12},
}
"""Activations smoothed: two norms a block, and `o` and `down` if a layer takes their factors."""
IN_THE_ENCODER = {
    "GroupQueryAttention": 2,
    "MultiHeadAttention": 0,
    "SkipSimplifiedLayerNormalization": 6,
}
"""Operators that fusing adds to the encoder; its last block, of three, keeps its attention."""
FUSED = {
    "qwen2_vl": {
        "GroupQueryAttention": 0,
        "MultiHeadAttention": 4,
        "SkipSimplifiedLayerNormalization": 0,
    },
    # two of its four blocks attend in windows
    "qwen2_5_vl": {
        "GroupQueryAttention": 0,
        "MultiHeadAttention": 2,
        "SkipSimplifiedLayerNormalization": 8,
    },
    "qwen3_vl": {
        "GroupQueryAttention": 0,
        "MultiHeadAttention": 4,
        "SkipSimplifiedLayerNormalization": 0,
    },
}
FUSED["qwen3_vl_moe"] = FUSED["qwen3_vl"]
"""Operators added to the vision tower."""


def test_smoothed_and_fused_graphs_compute_the_same(made: Made) -> None:
    """All activations with a maker are smoothed, all full attentions fused; the vectors stay."""
    preparer, golden = Preparer.load(made.bundle), read_golden(made.bundle)
    models = {part: ir.load(made.bundle / f"graphs/{part}.fp32.onnx") for part in PARTS}
    items = [
        golden.inputs[index].item
        for modality in golden.modalities
        for index in golden.of(modality)[:2]
    ]
    batch = assemble([preparer(item) for item in items], preparer.contract)
    scans = scan_batches(models, [("mixed", batch)])
    plain = embedded(preparer, models, items)
    smoothed = {part: copy_of(model) for part, model in models.items()}
    counts = {part: smooth(model, scans[part].channels, 0.6) for part, model in smoothed.items()}
    assert counts == SMOOTHED[made.family]
    flat = scan_batches(smoothed, [("mixed", batch)])
    assert all(unevenness(flat[part]) < unevenness(scans[part]) - 0.05 for part in PARTS)
    fused = {part: copy_of(model) for part, model in smoothed.items()}
    operators = {part: fuse(model) for part, model in fused.items()}
    # two of its three blocks have experts
    mixtures = {"MoE": 2 if made.family == "qwen3_vl_moe" else 0}
    assert operators == {
        "vision": {**FUSED[made.family], "MoE": 0},
        "encoder": {**IN_THE_ENCODER, **mixtures},
    }
    for changed in (smoothed, fused):
        assert np.abs(embedded(preparer, changed, items) - plain).max() < 1e-6


def embedded(preparer: Preparer, models: dict[str, ir.Model], items: list[Input]) -> np.ndarray:
    with Encoder(
        preparer, StreamedBackend(models["vision"], models["encoder"], optimize=False)
    ) as encoder:
        return encoder.encode(items, batch_size=64)


def unevenness(scan: Scan) -> float:
    """Returns the mean logarithm of an activation's largest channel over its median one."""
    logarithms = [
        np.log(channels.max() / max(np.median(channels), 1e-9))
        for channels in scan.channels.values()
    ]
    return float(np.mean(logarithms))


@pytest.mark.parametrize("graph", ["fp32", "fp32-cpu", "int8-cpu"])
def test_graphs_run_on_the_oldest_onnx_runtime(graph: str, made: Made, data: Path) -> None:
    """The extras promise it: every operator has a kernel there that computes the same."""
    picture = str(data / "images/eval/3-00001.png")
    items: list[object] = [
        "fifteen",
        {"image": picture},
        {"image": [picture, picture], "text": "compare"},
    ]
    with Encoder.load(made.bundle, graph=graph) as encoder:
        cosine = (floor.embed(made.bundle, graph, items) * encoder.encode(items)).sum(axis=1)
    assert cosine.min() > 0.99999


def traced_fails(made: Made) -> set[str]:
    encoder, model = load_encoder_and_model(made.checkpoint)
    rows = traced_rows(model, encoder.preparer, read_golden(made.bundle))
    return {row.modality for row in rows if not row.passed}


@pytest.mark.parametrize("surplus", [0, 1])
def test_as_many_deepstack_levels_as_layers_are_exported(
    surplus: int, backbones: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """A level behind the last layer changes rows that nothing reads; others count.

    The control leaves all levels out.
    """
    folder = Path(shutil.copytree(backbones["qwen3_vl"], tmp_path / "backbone"))
    config = read_config(folder)
    layers = config.text_config.num_hidden_layers
    config.vision_config.depth = layers + 1
    config.vision_config.deepstack_visual_indexes = list(range(layers + surplus))
    torch.manual_seed(0)
    FAMILIES["qwen3_vl"].model(config).save_pretrained(folder)
    initialize(find_recipe("digits-tiny"), tmp_path / "checkpoint", folder)
    encoder, model = load_encoder_and_model(tmp_path / "checkpoint")
    backend = TracedBackend(model, encoder.preparer.contract)
    picture = {"image": str(data / "images/eval/3-00001.png")}
    with encoder, Encoder(encoder.preparer, backend, "traced") as traced:
        expected = encoder.encode(picture)
        assert float((expected * traced.encode(picture)).sum()) > 1 - 1e-5
        backend.module("encoder").levels = 0
        assert float((expected * traced.encode(picture)).sum()) < 1 - 1e-4


def test_the_traced_forward_is_transformers_own(made: Made) -> None:
    """It agrees for every kind of input."""
    assert traced_fails(made) == set()


def wrong_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    original = forward.axis_frequencies
    monkeypatch.setattr(
        forward, "axis_frequencies", lambda rotary, config: original(rotary, config).roll(1, dims=0)
    )


def other_tables(
    monkeypatch: pytest.MonkeyPatch, table: str, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Gives other tables to the vision tower of the family that has this one."""
    original = contract_batch.tower_tables

    def changed(grid: tuple[int, int], contract: Any) -> dict[str, Any]:
        tables = original(grid, contract)
        return {**tables, **change(tables)} if table in tables else tables

    monkeypatch.setattr(contract_batch, "tower_tables", changed)


def no_deepstack(monkeypatch: pytest.MonkeyPatch) -> None:
    original = forward.SinglePassEncoder.__init__

    def without(encoder: forward.SinglePassEncoder, *arguments: Any) -> None:
        original(encoder, *arguments)
        encoder.levels = 0

    monkeypatch.setattr(forward.SinglePassEncoder, "__init__", without)


CONTROLS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], tuple[str, ...], str]] = {
    "the axes of M-RoPE": (wrong_axes, tuple(FAMILIES), "image"),
    "smaller windows": (
        lambda m: other_tables(m, "window_index", lambda t: window_tables(t["patch_positions"], 4)),
        ("qwen2_5_vl",),
        "largest picture",
    ),
    "the weights of the interpolation": (
        lambda m: other_tables(
            m,
            "interpolation_weight",
            lambda t: {"interpolation_weight": np.full_like(t["interpolation_weight"], 0.25)},
        ),
        ("qwen3_vl", "qwen3_vl_moe"),
        "image",
    ),
    "the deepstack": (no_deepstack, ("qwen3_vl", "qwen3_vl_moe"), "image"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_what_is_a_familys_own_is_seen_when_it_is_wrong(
    name: str, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controls of the gate against transformers: it fails for that family and for no other."""
    change, families, modality = CONTROLS[name]
    change(monkeypatch)
    assert (modality in traced_fails(made)) == (made.family in families)


def test_the_scan_protects_an_outlier_that_overflows_half(
    made: Made, data: Path, tmp_path: Path
) -> None:
    """Without the scan FP16 fails; with it the same graph passes, because it has islands."""
    planted = after(quick(made.bundle), "trace", plant_overflow)
    blind = after(planted, "scan", blind_scan)
    few = {"per_modality": 8, "calibration": 16}
    folders = (made.checkpoint, tmp_path / "blind", data)
    with pytest.raises(ExportError, match=r"gate not met: graph vs PyTorch, emulated, fp16"):
        export_with(blind, folders, ("fp16",), **few)
    export_with(planted, (made.checkpoint, tmp_path / "seen", data), ("fp16",), **few)
    islands = json.loads((tmp_path / "seen/parity.json").read_text())["fp16_islands"]
    stem = "blocks.0.experts" if made.family == "qwen3_vl_moe" else "blocks.0"
    expected = {f"{stem}.{name}/MatMul" for name in ("up", "down")}
    assert expected <= {island["node"] for island in islands}


TINY = {"encoder": Widths(64, 128, 2), "vision": Widths(64, 128, 2)}
"""Widths smaller than the models', so that memory bounds no profile."""


def in_fp32(trt: Any, network: Any) -> int:
    """Counts layers whose first result is FP32."""
    return sum(
        network.get_layer(index).get_output(0).dtype == trt.DataType.FLOAT
        for index in range(network.num_layers)
    )


@pytest.mark.parametrize("graph", ["fp16", "int8"])
@pytest.mark.parametrize("level", [1, 2])
def test_every_fallback_level_builds_with_the_real_builder(
    made: Made, graph: str, level: int
) -> None:
    """TensorRT-RTX takes the edited networks, and each level computes more in FP32 than the last.

    The export itself has built level 0, at which nothing is changed.
    """
    trt = load_tensorrt("tensorrt_rtx")
    profiles = derive_profiles(
        Contract.load(made.bundle / "contract.json"), TINY, "latency", 1 << 33
    )
    for part in PARTS:
        wide: list[int] = []

        def edit(trt: Any, network: Any, wide: list[int] = wide) -> None:
            for number in range(level + 1):
                fallback_levels.edit_network(number, trt, network)
                wide.append(in_fp32(trt, network))

        plan, _ = build_plan(
            made.bundle / f"graphs/{part}.{graph}.onnx",
            profiles[part][:1],
            Options(target="sm86"),
            trt,
            edit=edit,
        )
        assert len(plan) > 100_000
        assert wide == sorted(set(wide)), "each level widens"


def test_throughput_profiles_build_with_the_real_builder(exported: Path) -> None:
    """All buckets of both parts build, in batches as large as two gibibytes allow."""
    trt = load_tensorrt("tensorrt_rtx")
    profiles = derive_profiles(
        Contract.load(exported / "contract.json"), TINY, "throughput", 2 << 30
    )
    assert profiles["encoder"][0]["batch"][2] == LARGEST_BATCH["throughput"]
    for part in PARTS:
        plan, _ = build_plan(
            exported / f"graphs/{part}.fp16.onnx", profiles[part], Options(target="sm86"), trt
        )
        assert len(plan) > 100_000
