"""The recorded GPU where the runtime looks for CUDA and TensorRT, and what was built on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from lame_runtime import Encoder
from lame_runtime.backends.tensorrt import cudart

from recording_gpu.cudart import RecordingCudart
from recording_gpu.tensorrt import make_tensorrt

DEVICE = "device-000102030405.json"
"""File name of the recorded GPU's certificate."""


def install(
    monkeypatch: pytest.MonkeyPatch, gpu: RecordingCudart, version: str, name: str = "tensorrt"
) -> None:
    """Makes this CUDA and this version of TensorRT or TensorRT-RTX all that the runtime finds."""
    for module in ("tensorrt", "tensorrt_rtx"):
        # None in sys.modules makes an import fail.
        monkeypatch.setitem(
            sys.modules, module, make_tensorrt(gpu, version, name) if module == name else None
        )
    monkeypatch.setattr(cudart, "load_cudart", lambda: gpu)


def built(bundle: Path) -> list[Path]:
    """Returns the folders of the bundle's builds, sorted."""
    return sorted(path.parent for path in (bundle / "engines").glob("*/build.json"))


def load(bundle: Path, **options: Any) -> Encoder:
    """Loads a bundle on TensorRT."""
    return Encoder.load(bundle, backend="tensorrt", **options)
