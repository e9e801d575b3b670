"""The sides of the comparison: how each loads the model, and how it embeds a list of inputs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bench_inputs import Workload
from bench_models import BUNDLE, MODEL_FOLDER, THREADS, import_torch

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Workload], Vectors]
"""Embeds the items of a workload, in batches of its size."""


def lame(graph: str) -> Callable[[Path], Embed]:
    """Returns a function that loads one of LaME's graphs."""

    def load(folder: Path) -> Embed:
        from lame_runtime import Encoder

        encoder = Encoder.load(folder / BUNDLE, graph=graph, threads=THREADS)
        return lambda work: encoder.encode(work.items, batch_size=work.batch_size)

    return load


def sentence_transformers(dtype: str) -> Callable[[Path], Embed]:
    """Returns a function that loads the model with Sentence Transformers in a data type."""

    def load(folder: Path) -> Embed:
        import_torch()
        from PIL import Image
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            str(folder / MODEL_FOLDER), device="cpu", model_kwargs={"torch_dtype": dtype}
        )

        def embed(work: Workload) -> Vectors:
            # it would decode paths with the part of torchvision that does not load here
            items = [
                {**item, "image": Image.open(item["image"])}
                if isinstance(item, dict) and "image" in item
                else item
                for item in work.items
            ]
            vectors = model.encode(items, batch_size=work.batch_size, show_progress_bar=False)
            return np.asarray(vectors, np.float32)

        return embed

    return load


def hugging_face(folder: Path) -> Embed:
    """Loads processor and model of transformers, with eager attention in place of SDPA."""
    torch = import_torch()
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder / MODEL_FOLDER)
    model = AutoModel.from_pretrained(folder / MODEL_FOLDER, attn_implementation="eager").eval()

    def embed_batch(items: Sequence[Any]) -> Vectors:
        from PIL import Image

        turns, pictures = [], []
        for item in items:
            parts = item if isinstance(item, dict) else {"text": item}
            content: list[dict[str, str]] = []
            if "image" in parts:
                pictures.append(Image.open(parts["image"]))
                content.append({"type": "image"})
            if "text" in parts:
                content.append({"type": "text", "text": parts["text"]})
            turns.append([{"role": "user", "content": content}])
        prompts = [processor.apply_chat_template(turn) for turn in turns]
        inputs = processor(text=prompts, images=pictures or None, padding=True, return_tensors="pt")
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state
        last = inputs["attention_mask"].sum(1) - 1
        rows = torch.nn.functional.normalize(states[torch.arange(len(last)), last], dim=-1)
        return np.asarray(rows, np.float32)

    def embed(work: Workload) -> Vectors:
        size = work.batch_size
        return np.concatenate(
            [
                embed_batch(work.items[start : start + size])
                for start in range(0, len(work.items), size)
            ]
        )

    return embed


def openvino(folder: Path) -> Embed:
    """Runs LaME's fp32 graphs in OpenVINO, in place of ONNX Runtime."""
    import openvino as ov
    from lame_runtime import Encoder
    from lame_runtime.backends.base import Backend
    from lame_runtime.contract.batch import Batch, Floats, PictureGroup
    from lame_runtime.contract.preparer import Preparer

    class OpenVinoBackend(Backend):
        """Runs the two graphs."""

        def __init__(self) -> None:
            core = ov.Core()
            settings = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
            self.name = f"openvino {ov.__version__}"
            self._graphs = {
                part: core.compile_model(
                    folder / BUNDLE / f"graphs/{part}.fp32.onnx", "CPU", settings
                )
                for part in ("vision", "encoder")
            }
            self.width = int(self._graphs["vision"].output(0).partial_shape[2].get_length())

        def vision(self, group: PictureGroup) -> Floats:
            return np.array(self._graphs["vision"](group.vision_feeds())[0])

        def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
            return np.array(self._graphs["encoder"](batch.encoder_feeds(features_FD))[0])

    encoder = Encoder(Preparer.load(folder / BUNDLE), OpenVinoBackend(), "fp32")
    return lambda work: encoder.encode(work.items, batch_size=work.batch_size)


SIDES: dict[str, tuple[Callable[[Path], Embed], tuple[str, ...]]] = {
    "Sentence Transformers": (
        sentence_transformers("float32"),
        ("sentence-transformers", "torchvision", "pillow"),
    ),
    "Sentence Transformers, BF16": (
        sentence_transformers("bfloat16"),
        ("sentence-transformers", "torchvision", "pillow"),
    ),
    "Hugging Face": (hugging_face, ("transformers", "torch", "torchvision", "pillow")),
    "OpenVINO": (openvino, ("lame-runtime", "openvino")),
    "LaME, fp32-cpu": (lame("fp32-cpu"), ("lame-runtime", "onnxruntime")),
    "LaME, int8-cpu": (lame("int8-cpu"), ("lame-runtime", "onnxruntime")),
}
"""How a side loads the model, and the packages that its users install."""


def skip_reason(side: str) -> str:
    """Returns why a side cannot run on this machine; empty if it can."""
    if side.endswith("BF16"):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if "avx512_bf16" not in flags and "amx_bf16" not in flags:
            return "this CPU has no BF16 instructions"
    if side == "OpenVINO" and importlib.util.find_spec("openvino") is None:
        return "openvino is not installed"
    return ""


def installed_bytes(side: str) -> int:
    """Returns the bytes of a side's packages and all that they require, our own left out."""
    waiting, seen, total = list(SIDES[side][1]), set[str](), 0
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            package = _oracle_distribution(name)
            if package is None:
                continue
        total += sum(
            path.stat().st_size
            for file in package.files or ()
            if (path := Path(str(package.locate_file(file)))).is_file()
        )
        for requirement in package.requires or ():
            if "extra ==" not in requirement:
                waiting.append(re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0])
    return total


def _oracle_distribution(name: str) -> importlib.metadata.Distribution | None:
    # torchvision is installed in a separate folder; see `tests/oracle.py`
    folder = str(Path(sys.prefix) / "oracle")
    return next(iter(importlib.metadata.distributions(name=name, path=[folder])), None)
