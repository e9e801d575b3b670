"""The steps of `realsize.py` that embed the eight inputs, and the list of all steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from realsize_build import PARTS, backbone, checkpoint, export, plans
from realsize_workspace import Facts, Workspace, inputs, peak_memory


def runtime(workspace: Workspace, *, map_weights: bool = False) -> Facts:
    """Embeds with the FP16 bundle on ONNX Runtime, without PyTorch; all hashes are checked.

    Args:
        workspace: holds the bundle.
        map_weights: leave the weights on the disk, and run on the CPU.
    """
    from lame_runtime import Encoder

    start = time.perf_counter()
    encoder = Encoder.load(
        workspace.bundle,
        graph="fp16",
        backend="onnxruntime" if map_weights else "auto",
        map_weights=map_weights,
    )
    load_seconds = time.perf_counter() - start
    # Read now: the peak at the end also counts what embedding needs.
    peak_at_load = peak_memory()
    start = time.perf_counter()
    vectors = encoder.encode(inputs(), batch_size=8)
    embed_seconds = time.perf_counter() - start
    # Without this, the measured memory could be that of PyTorch.
    assert not {"torch", "transformers", "onnx"} & set(sys.modules)
    return {
        "backend": encoder.backend.name,
        "load": load_seconds,
        "peak_at_load": peak_at_load,
        "embed": embed_seconds,
        **workspace.compare(vectors),
    }


def reference(workspace: Workspace) -> Facts:
    """Embeds with PyTorch in FP32, which the other steps are compared with.

    It runs on a GPU if there is one. On a CPU, FP32 weights are made block by block from FP16.
    """
    import torch
    from lame_training.model.torch_backend import load_encoder

    # TF32 convolutions (the patch embedding) would cost the reference its precision.
    torch.backends.cudnn.allow_tf32 = False
    on_gpu = torch.cuda.is_available()
    opened = _eager(workspace, torch.float32) if on_gpu else load_encoder(workspace.checkpoint)
    with opened as encoder:
        start = time.perf_counter()
        vectors = encoder.encode(inputs(), batch_size=8)
        np.save(workspace.reference, vectors)
        # A padding error would show between an input alone and the same in a batch.
        alone = np.concatenate([encoder.encode([item]) for item in inputs()[:2]])
        seconds = time.perf_counter() - start
    cosines = vectors @ vectors.T
    pairs = ~np.eye(len(cosines), dtype=bool)
    return {
        "embed": seconds,
        # Close to 1 would mean that random weights make all inputs alike, and that the other
        # steps' cosines show nothing.
        "mean_cosine_between_inputs": float(cosines[pairs].mean()),
        "alone_vs_batch": float((alone * vectors[:2]).sum(1).min()),
    }


def half(workspace: Workspace) -> Facts:
    """Embeds with PyTorch in the FP16 of the weights, on a GPU if there is one."""
    import torch

    # Minutes on a CPU, most of which have no FP16 arithmetic.
    encoder = _eager(workspace, None)
    start = time.perf_counter()
    vectors = encoder.encode(inputs(), batch_size=8)
    return {
        "embed": time.perf_counter() - start,
        "on": "GPU" if torch.cuda.is_available() else "CPU",
        **workspace.compare(vectors),
    }


def speed(workspace: Workspace) -> Facts:
    """Measures milliseconds per text of ONNX Runtime's CUDA provider and of PyTorch, in FP16.

    The two sides take turns. Without a GPU, nothing is measured.
    """
    import statistics

    import torch
    from lame_runtime import Encoder
    from lame_runtime.cli.benchmark import alternate
    from lame_runtime.inputs import as_input

    if not torch.cuda.is_available():
        return {}
    eager = _eager(workspace, None)
    milliseconds = {}
    with Encoder.load(workspace.bundle, graph="fp16", backend="onnxruntime-gpu") as ours:
        for batch in (1, 8, 32):
            for words in (20, 80):
                # The number makes the texts of a batch differ.
                texts = [" ".join(["fifteen"] * words) + f" {number}" for number in range(batch)]
                sides = {
                    "onnxruntime": partial(ours.encode, texts, batch_size=batch),
                    "PyTorch": partial(eager.encode, texts, batch_size=batch),
                }
                tokens = len(eager.preparer(as_input(texts[0])).ids)
                milliseconds[f"{batch} x {tokens}"] = {
                    side: 1000 * statistics.median(seconds) / batch
                    for side, seconds in alternate(sides, rounds=7).items()
                }
    return {"speed": milliseconds}


def _eager(workspace: Workspace, dtype: Any) -> Any:
    """Returns the checkpoint's encoder in PyTorch, on a GPU if there is one.

    Args:
        workspace: holds the checkpoint.
        dtype: of the weights; None keeps their own.
    """
    import torch
    from lame_runtime.encoder import Encoder
    from lame_training.model.checkpoint import load_model
    from lame_training.model.torch_backend import TorchBackend

    model, preparer = load_model(workspace.checkpoint, dtype=dtype, decoder=False)
    # A GPU, if there is one, because FP16 on a CPU is slow and not what a server runs.
    if torch.cuda.is_available():
        model = model.cuda()
    return Encoder(preparer, TorchBackend(model), "fp16" if dtype is None else "fp32")


def emulated(workspace: Workspace, graph: str) -> Facts:
    """Embeds with a graph that is rounded as a GPU rounds it, streamed from the disk."""
    import onnx_ir as ir
    from lame_export.rewrites.emulate import emulate
    from lame_export.streaming.streamed_backend import Resources, StreamedBackend
    from lame_runtime.contract import Preparer
    from lame_runtime.encoder import Encoder

    models = {part: ir.load(workspace.graph(part, graph)) for part in PARTS}
    for model in models.values():
        emulate(model)
    # Nothing stays loaded (`keep`), so that peak memory does not depend on this machine's memory.
    backend = StreamedBackend(
        models["vision"], models["encoder"], optimize=False, resources=Resources(keep=0)
    )
    encoder = Encoder(Preparer.load(workspace.bundle), backend, graph)
    return workspace.compare(encoder.encode(inputs(), batch_size=8))


# In this order: each step reads what earlier ones wrote.
STEPS: dict[str, Callable[[Workspace], Facts]] = {
    "backbone": backbone,
    "checkpoint": checkpoint,
    "export": export,
    "plans": plans,
    "reference": reference,
    "runtime": runtime,
    "mapped": partial(runtime, map_weights=True),
    "emulated fp16": partial(emulated, graph="fp16"),
    "emulated int8": partial(emulated, graph="int8"),
    "half": half,
    "speed": speed,
}
