"""Tests that the manifest is read strictly and that every change is detected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lame_runtime.bundle.manifest import (
    GraphFiles,
    ModelFacts,
    PartWidths,
    build_manifest,
    canonical_hash,
    check_files,
    read_manifest,
)
from lame_runtime.errors import BundleError

FACTS = ModelFacts(
    family="qwen2_vl",
    dim=16,
    n_reason=4,
    widths={part: PartWidths(hidden=8, mlp=16, heads=2) for part in ("encoder", "vision")},
    parameters=100,
    exported_by="lame-export 0",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs/a.onnx").write_bytes(b"graph")
    (tmp_path / "contract.json").write_text("{}")
    graphs = {"fp32": GraphFiles("graphs/a.onnx", "graphs/a.onnx")}
    (tmp_path / "manifest.json").write_text(build_manifest(tmp_path, FACTS, graphs).to_json())
    return tmp_path


def test_an_untouched_bundle_passes(folder: Path) -> None:
    """The manifest that is read equals the one that was written, and every file matches."""
    manifest = read_manifest(folder)
    assert manifest.model == FACTS
    assert set(manifest.files) == {"graphs/a.onnx", "contract.json"}
    check_files(folder, manifest, list(manifest.files))


def test_one_flipped_byte_is_noticed(folder: Path) -> None:
    """A flipped byte raises an error that names the file."""
    (folder / "graphs/a.onnx").write_bytes(b"grapH")
    with pytest.raises(BundleError, match=r"a\.onnx.*sha256"):
        check_files(folder, read_manifest(folder), ["graphs/a.onnx"])


def test_a_changed_manifest_is_noticed(folder: Path) -> None:
    """A changed file hash is detected by the manifest's own hash."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["graphs/a.onnx"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="was changed"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("files"), "lacks files"),
        (lambda raw: raw.update(extra=1), "unknown fields extra"),
        (lambda raw: raw["model"].update(dim="16"), "dim must be int"),
        (lambda raw: raw["graphs"].update(int8=3), "graphs"),
        (lambda raw: raw["graphs"]["fp32"].pop("vision"), "lacks vision"),
        (lambda raw: raw["files"].update({"../x": "0" * 64}), "outside the bundle"),
        (lambda raw: raw["files"].update({"/x": "0" * 64}), "outside the bundle"),
        (lambda raw: raw.update(format_version=True), "format_version True"),
        (lambda raw: raw.update(kind="lame-index"), "kind 'lame-index'"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, folder: Path
) -> None:
    """The message is one line that names the field, even if the hash was updated."""
    raw = json.loads((folder / "manifest.json").read_text())
    change(raw)
    raw["sha256"] = canonical_hash(raw)
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=message):
        read_manifest(folder)
