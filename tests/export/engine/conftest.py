"""A recorded GPU, and a bundle that is quickly proved on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lame_runtime.contract.manifest import build_manifest
from recording_gpu import RecordingCudart
from recording_gpu.placed import install


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RecordingCudart]:
    """A recorded GPU with TensorRT 10.3 that everything finds by itself, and an account of one's own."""
    recorded = RecordingCudart(total=4 << 30)
    install(monkeypatch, recorded, "10.3.0")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield recorded
    recorded.assert_released()


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported bundle with some golden inputs of each modality, which is enough to be proved or refused by."""
    copy = Path(shutil.copytree(exported, tmp_path / "bundle"))
    lines = (copy / "golden/inputs.jsonl").read_text(encoding="utf-8").strip().split("\n")
    kept = [*range(0, len(lines) - 2, 24), len(lines) - 2, len(lines) - 1]
    (copy / "golden/inputs.jsonl").write_text("".join(lines[index] + "\n" for index in kept), encoding="utf-8")
    np.save(copy / "golden/embeddings.npy", np.load(copy / "golden/embeddings.npy")[kept])
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(build_manifest(copy, manifest["model"], manifest["graphs"])))
    return copy
