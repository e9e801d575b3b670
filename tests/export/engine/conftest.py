"""Fixtures: a recorded GPU, a bundle that is proved on it quickly, and the errors on stderr."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lame_runtime.bundle.certificate import read_certificate
from lame_runtime.bundle.golden import read_golden
from lame_runtime.bundle.manifest import build_manifest, read_manifest, sha256_file
from lame_runtime.parity.verify import REPEATED
from recording_gpu import RecordingCudart
from recording_gpu.placed import install

PROGRESS_LINE = re.compile(r"(vision|encoder)\.[\w-]+: [\d,]+.* step in .*\n")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RecordingCudart]:
    """A recorded GPU with TensorRT 10.3, installed where the product looks, and an empty account.

    At the end of the test, everything on the GPU must have been released.
    """
    recorded = RecordingCudart(total=4 << 30)
    install(monkeypatch, recorded, "10.3.0")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield recorded
    recorded.assert_released()


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported bundle with few golden inputs per modality, to be proved quickly."""
    copy = Path(shutil.copytree(exported, tmp_path / "bundle"))
    lines = (copy / "golden/inputs.jsonl").read_text(encoding="utf-8").strip().split("\n")
    # The last two are the extremes: the longest text and the largest picture.
    rows = [*range(0, len(lines) - 2, 24), len(lines) - 2, len(lines) - 1]
    (copy / "golden/inputs.jsonl").write_text(
        "".join(lines[row] + "\n" for row in rows), encoding="utf-8"
    )
    np.save(copy / "golden/embeddings.npy", np.load(copy / "golden/embeddings.npy")[rows])
    _certify_anew(copy)
    manifest = read_manifest(copy)
    changed = build_manifest(copy, manifest.model, manifest.graphs)
    (copy / "manifest.json").write_text(changed.to_json())
    return copy


def _certify_anew(copy: Path) -> None:
    """Writes the certificate of fewer golden inputs, because `verify` compares their numbers."""
    certificate, golden = read_certificate(copy), read_golden(copy)
    sizes = {modality: len(golden.of(modality)) for modality in golden.modalities}
    sizes["mixed"] = len(golden.inputs)
    hashes = {
        name: sha256_file(copy / name) if name.startswith("golden/") else sha256
        for name, sha256 in certificate.hashes.items()
    }
    rows = [
        replace(row, inputs=sizes[row.modality])
        if row.comparison.startswith(REPEATED) and row.modality in sizes
        else row
        for row in certificate.rows
    ]
    fewer = replace(certificate, rows=rows, hashes=hashes)
    (copy / "parity.json").write_text(fewer.to_json(), encoding="utf-8")


@pytest.fixture
def read_errors(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Returns what was written to stderr since the last call, without the builder's progress."""
    return lambda: PROGRESS_LINE.sub("", capsys.readouterr().err)
