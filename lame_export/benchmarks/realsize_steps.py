"""The steps of `realsize.py`, each a function of its folder and family that runs in a process of its own and reports facts."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FAMILIES = ("qwen2_vl", "qwen3_vl")
RECIPES = {"qwen2_vl": "lame-qwen2-vl-2b", "qwen3_vl": "lame-qwen3-vl-8b"}
GRAPHS = ("fp16", "int8")
Facts = dict[str, Any]


def inputs() -> list[Any]:
    """Eight inputs: texts, pictures, several pictures, a video."""
    from PIL import Image

    rng = np.random.default_rng(0)

    def picture(width: int, height: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)).resize((width, height))

    return [
        "a red bicycle leaning against a wall",
        "数字加起来是十五 🙂",
        "a longer text " * 20,
        {"image": picture(224, 224)},
        {"image": picture(320, 200), "text": "What is on the picture?"},
        {"image": picture(200, 320), "text": "A caption."},
        {"image": [picture(224, 160), picture(160, 224)], "text": "Compare the two."},
        {"video": [picture(160, 160) for _ in range(4)], "text": "What happens?"},
    ]


def backbone(root: Path, family: str) -> Facts:
    """The folder a model hub would give."""
    import torch
    from lame_training.sample_backbone import write_sample

    write_sample(family, root / "backbone", "2b", dtype=torch.float16)
    return {"bytes": _bytes(root / "backbone", "*.safetensors")}


def checkpoint(root: Path, family: str) -> Facts:
    """`lame-train run RECIPE --backbone DIR --steps 0`, without the latent decoder, and with small budgets."""
    from lame_training.derive import Budget
    from lame_training.loop import initialise
    from lame_training.recipes import find_recipe

    recipe = find_recipe(RECIPES[family])
    budget = Budget(max_length=512, max_pixels=256 * 256, max_frames=8)
    initialise(dataclasses.replace(recipe, decoder=None, dim=1024, budget=budget), root / "checkpoint", root / "backbone")
    return {"bytes": _bytes(root / "checkpoint", "model.safetensors")}


def export(root: Path, family: str) -> Facts:
    """The graph passes of `lame-export bundle`, calibrated on the eight inputs, with the time of each."""
    from lame_export.choice import Way
    from lame_export.plan import Export
    from lame_export.quantise import Quantiser
    from lame_runtime.batching import assemble
    from lame_runtime.inputs import as_input

    from lame_export import calibration, steps

    bundle = root / "bundle"
    (bundle / "graphs").mkdir(parents=True)
    state = Export(root / "checkpoint", root, GRAPHS, bundle)
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[Export], None]) -> None:
        began = time.perf_counter()
        run(state)
        seconds[name] = time.perf_counter() - began

    def scan(state: Export) -> None:
        preparer = state.reference.preparer
        batch = assemble([preparer(as_input(item)) for item in inputs()], preparer.contract)
        batches = {"mixed": [batch]}
        state.quantiser = Quantiser(state.traced, calibration.scan_batches(state.traced, batches), batches, state.reference, {})
        state.ways = {"int8": Way()}

    for name, run in (("load", steps.load), ("trace", steps.trace), ("scan", scan), ("fp16", steps.fp16), ("int8", steps.int8)):
        timed(name, run)
    # what is measured below is no proof by the gates, and the bundle says so
    (bundle / "parity.json").write_text(json.dumps({"passed": False, "rows": [], "environment": steps.environment()}))
    steps.write_manifest(state)
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    sizes = {graph: _bytes(bundle, f"graphs/*.{graph}.onnx*") for graph in GRAPHS}
    return {"passes": seconds, "parameters": parameters, "bytes": sum(sizes.values()), "sizes": sizes, "islands": len(state.islands)}


def plans(root: Path, family: str) -> Facts:
    """TensorRT-RTX plans of the FP16 graphs for SM86, built without a GPU."""
    from lame_export.engine import build_engine, load_tensorrt

    trt = load_tensorrt("tensorrt_rtx")
    sizes = {}
    for part in ("vision", "encoder"):
        plan = root / f"{part}.plan"
        sizes[part] = build_engine(root / f"bundle/graphs/{part}.fp16.onnx", plan, target="sm86", module=trt)
        plan.unlink()
    return {"version": trt.__version__, "sizes": sizes}


def runtime(root: Path, family: str) -> Facts:
    """The FP16 bundle by ONNX Runtime, without PyTorch; every hash checked at load."""
    return _run_bundle(root, map_weights=False)


def mapped(root: Path, family: str) -> Facts:
    """The same on the CPU, with the weights left on the disk."""
    return _run_bundle(root, map_weights=True)


def _run_bundle(root: Path, *, map_weights: bool) -> Facts:
    from lame_runtime import Encoder

    began = time.perf_counter()
    encoder = Encoder.load(root / "bundle", graph="fp16", backend="onnxruntime" if map_weights else "auto", map_weights=map_weights)
    loaded = time.perf_counter() - began
    at_load = peak()
    began = time.perf_counter()
    vectors = encoder.encode(inputs(), batch_size=8)
    seconds = time.perf_counter() - began
    assert not {"torch", "transformers", "onnx"} & set(sys.modules)
    return {"backend": encoder.backend.name, "load": loaded, "peak_at_load": at_load, "embed": seconds, **_against(root, vectors)}


def reference(root: Path, family: str) -> Facts:
    """PyTorch in FP32, on the GPU where there is one, else block by block from the FP16 weights."""
    import torch
    from lame_training.torch_backend import load_encoder

    torch.backends.cudnn.allow_tf32 = False
    with _eager(root, torch.float32) if torch.cuda.is_available() else load_encoder(root / "checkpoint") as encoder:
        began = time.perf_counter()
        vectors = encoder.encode(inputs(), batch_size=8)
        np.save(root / "reference.npy", vectors)
        alone = np.concatenate([encoder.encode([item]) for item in inputs()[:2]])
    cosines = vectors @ vectors.T
    apart = float(cosines[~np.eye(len(cosines), dtype=bool)].mean())
    batch = float((alone * vectors[:2]).sum(1).min())
    return {"embed": time.perf_counter() - began, "mean_cosine_between_inputs": apart, "alone_vs_batch": batch}


def half(root: Path, family: str) -> Facts:
    """PyTorch computing in the FP16 of the weights, on the GPU where there is one."""
    import torch

    encoder = _eager(root, None)
    began = time.perf_counter()
    vectors = encoder.encode(inputs(), batch_size=8)
    return {"embed": time.perf_counter() - began, "on": "GPU" if torch.cuda.is_available() else "CPU", **_against(root, vectors)}


def speed(root: Path, family: str) -> Facts:
    """Milliseconds per text of ONNX Runtime's CUDA provider and of PyTorch eager, both in FP16, in turns; nothing without a GPU."""
    import statistics

    import torch
    from lame_runtime import Encoder
    from lame_runtime.bench import alternate
    from lame_runtime.inputs import as_input

    if not torch.cuda.is_available():
        return {}
    eager = _eager(root, None)
    found = {}
    with Encoder.load(root / "bundle", graph="fp16", backend="onnxruntime-gpu") as ours:
        for batch in (1, 8, 32):
            for words in (20, 80):
                items: list[Any] = [" ".join(["fifteen"] * words) + f" {number}" for number in range(batch)]
                sides = {
                    "onnxruntime": lambda items=items: ours.encode(items, batch_size=len(items)),
                    "PyTorch": lambda items=items: eager.encode(items, batch_size=len(items)),
                }
                taken = alternate(sides, 7)  # type: ignore[arg-type]
                name = f"{batch} x {len(eager.preparer(as_input(items[0])).ids)}"
                found[name] = {side: 1000 * statistics.median(seconds) / batch for side, seconds in taken.items()}
    return {"speed": found}


def _eager(root: Path, dtype: Any) -> Any:
    """The checkpoint's encoder in PyTorch, on the GPU where there is one; `dtype` None keeps the weights' own."""
    import torch
    from lame_runtime.encoder import Encoder
    from lame_training.checkpoint import load_model
    from lame_training.torch_backend import TorchBackend

    model, preparer = load_model(root / "checkpoint", dtype=dtype, decoder=False)
    return Encoder(preparer, TorchBackend(model.cuda() if torch.cuda.is_available() else model), "fp16" if dtype is None else "fp32")


def emulated(root: Path, family: str, graph: str) -> Facts:
    """A graph rounded as a GPU rounds it, streamed."""
    import onnx_ir as ir
    from lame_export.passes.emulate import emulate
    from lame_export.streamed import StreamedBackend
    from lame_runtime.contract import Preparer
    from lame_runtime.encoder import Encoder

    models = {part: ir.load(root / f"bundle/graphs/{part}.{graph}.onnx") for part in ("vision", "encoder")}
    for model in models.values():
        emulate(model)
    encoder = Encoder(Preparer.load(root / "bundle"), StreamedBackend(models["vision"], models["encoder"], optimise=False, keep=0), graph)
    vectors = encoder.encode(inputs(), batch_size=8)
    return _against(root, vectors)


STEPS: dict[str, Callable[[Path, str], Facts]] = {
    "backbone": backbone,
    "checkpoint": checkpoint,
    "export": export,
    "plans": plans,
    "reference": reference,
    "runtime": runtime,
    "mapped": mapped,
    "emulated fp16": lambda root, family: emulated(root, family, "fp16"),
    "emulated int8": lambda root, family: emulated(root, family, "int8"),
    "half": half,
    "speed": speed,
}


def _against(root: Path, vectors: np.ndarray[Any, Any]) -> Facts:
    cosines = (np.load(root / "reference.npy") * vectors).sum(1)
    return {"mean_cosine": float(cosines.mean()), "min_cosine": float(cosines.min())}


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def peak() -> int:
    """Maximum resident set of this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
