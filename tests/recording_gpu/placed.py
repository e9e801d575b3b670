"""The recorded GPU where the product looks for CUDA and TensorRT, and what it built there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from lame_runtime import Encoder
from lame_runtime.backends import _cudart

from recording_gpu.cudart import RecordingCudart
from recording_gpu.tensorrt import make_tensorrt

DEVICE = "device-000102030405.json"
"""The recorded GPU's certificate."""


def install(monkeypatch: pytest.MonkeyPatch, gpu: RecordingCudart, version: str, name: str = "tensorrt") -> None:
    """Puts a version of TensorRT or TensorRT-RTX, and CUDA, where the product looks; it finds no other."""
    for each in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, each, make_tensorrt(gpu, version, name) if each == name else None)
    monkeypatch.setattr(_cudart, "_load", lambda: gpu)


def built(bundle: Path) -> list[Path]:
    """Folders of builds."""
    return sorted(path.parent for path in (bundle / "engines").glob("*/build.json"))


def load(bundle: Path, **options: Any) -> Encoder:
    """On TensorRT."""
    return Encoder.load(bundle, backend="tensorrt", **options)
