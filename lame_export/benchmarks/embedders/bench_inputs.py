"""Writes the inputs that all sides embed: texts, photos, and both together."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

WORDS = [
    "seven",
    "fifteen",
    "digits",
    "that",
    "add",
    "up",
    "to",
    "name",
    "the",
    "digit",
    "what",
    "do",
]
"""Words of the inputs, most of which are one token of the sample tokenizer."""


@dataclass(frozen=True)
class Workload:
    """Inputs that are embedded in one call."""

    name: str
    items: list[Any]
    """Texts, or dicts with `text`, `image` (a path) or both."""
    batch_size: int


def write_workloads(folder: Path, size: str) -> list[Workload]:
    """Writes `folder/inputs.json` and the photos; returns the workloads."""
    rng = np.random.default_rng(0)
    photos = _photos(folder / "photos", 8, rng)
    short = [_text(rng, 12) for _ in range(64)]
    long = [_text(rng, 200) for _ in range(16)]
    count = 2 if size == "tiny" else 8
    workloads = [
        Workload("short texts, batches of 32", short[: 8 * count], 32),
        Workload("long texts, batches of 8", long[: 2 * count], 8),
        Workload("photos, batches of 8", [{"image": path} for path in photos[:count]], 8),
        Workload(
            "photo and text, batches of 8",
            [{"image": path, "text": text} for path, text in zip(photos, short, strict=False)][
                :count
            ],
            8,
        ),
        Workload("a short text alone", short[: 2 * count], 1),
        Workload("a photo alone", [{"image": path} for path in photos[: count // 2]], 1),
    ]
    text = json.dumps([asdict(work) for work in workloads])
    (folder / "inputs.json").write_text(text, encoding="utf-8")
    return workloads


def read_workloads(folder: Path) -> dict[str, Workload]:
    """Reads `folder/inputs.json`, by name."""
    rows = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    return {row["name"]: Workload(**row) for row in rows}


def _text(rng: np.random.Generator, words: int) -> str:
    # lengths vary by up to a quarter, as in real batches
    return " ".join(rng.choice(WORDS, int(words * rng.uniform(0.75, 1.25))))


def _photos(folder: Path, count: int, rng: np.random.Generator) -> list[str]:
    """Writes JPEG files of 640 × 480 pixels: soft blobs of color with some grain."""
    from PIL import Image

    folder.mkdir()
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-8, 9, pixels.shape, dtype=np.int16)
        path = folder / f"{number}.jpg"
        Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    return paths
