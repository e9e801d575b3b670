"""Shares what all steps of `realsize.py` use: their folder, their inputs, and figures of them."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RECIPES = {"qwen2_vl": "lame-qwen2-vl-2b", "qwen3_vl": "lame-qwen3-vl-8b"}
"""Recipe by family; that of Qwen3-VL is for 8 B parameters, and runs on a backbone of 2 B here."""
FAMILIES = tuple(RECIPES)
Facts = dict[str, Any]
"""A step's report, which goes to the parent process as JSON."""


@dataclass(frozen=True)
class Workspace:
    """The folder of one family, in which each step finds what the steps before it wrote."""

    root: Path
    family: str

    @property
    def backbone(self) -> Path:
        """Folder of the backbone, as a model hub would give it."""
        return self.root / "backbone"

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoint."""
        return self.root / "checkpoint"

    @property
    def bundle(self) -> Path:
        """Folder of the bundle."""
        return self.root / "bundle"

    @property
    def reference(self) -> Path:
        """File of PyTorch's embeddings in FP32."""
        return self.root / "reference.npy"

    def graph(self, part: str, graph: str) -> Path:
        """Returns the file of one part of a graph."""
        return self.bundle / f"graphs/{part}.{graph}.onnx"

    def compare(self, vectors: np.ndarray[Any, Any]) -> Facts:
        """Returns mean and smallest cosine between embeddings and PyTorch's in FP32."""
        # The rows are unit vectors, so the dot product is the cosine.
        cosines = (np.load(self.reference) * vectors).sum(1)
        return {"mean_cosine": float(cosines.mean()), "min_cosine": float(cosines.min())}


def inputs() -> list[Any]:
    """Returns eight inputs: texts, pictures, several pictures, and a video."""
    # Deferred, as in all steps: the peak memory of a step is to hold only what the step needs.
    from PIL import Image

    # Seeded, because every process has to embed the same inputs.
    rng = np.random.default_rng(0)

    def picture(width: int, height: int) -> Image.Image:
        noise = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        return Image.fromarray(noise).resize((width, height))

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


def total_bytes(folder: Path, pattern: str) -> int:
    """Returns the size of all files of a folder whose names match a pattern."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def peak_memory() -> int:
    """Returns the largest resident set of this process so far, in bytes."""
    # Linux counts it in KiB, and includes pages that are mapped from files.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
