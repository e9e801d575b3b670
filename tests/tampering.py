"""Changes copies of the tiny bundle, with hashes computed anew, as anybody can."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lame_runtime.bundle.manifest import canonical_hash

TINY = Path(__file__).parent.parent / "examples/tiny-bundle"
Edit = Callable[[Any], object]
"""Changes parsed JSON in place."""


def copy_tiny(target: Path) -> Path:
    """Copies the tiny bundle of the repository."""
    return Path(shutil.copytree(TINY, target))


def edit_file(bundle: Path, name: str, edit: Edit) -> None:
    """Edits a JSON file of a bundle."""
    path = bundle / name
    raw = json.loads(path.read_text(encoding="utf-8"))
    edit(raw)
    path.write_bytes(json.dumps(raw).encode("utf-8", "surrogatepass"))


def rehash(bundle: Path, edit: Edit | None = None, added: Mapping[str, str] | None = None) -> Path:
    """Writes the hashes of the certificate's golden files and of the manifest anew.

    Args:
        bundle: the bundle.
        edit: changes the manifest before its own hash is computed.
        added: further files of the manifest.
    """
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    names = [name for name in manifest["files"] if (bundle / name).exists()]
    hashes = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in names}
    manifest["files"] = {**manifest["files"], **hashes, **(added or {})}
    if edit is not None:
        edit(manifest)
    manifest["sha256"] = canonical_hash(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return bundle


def golden_rows(bundle: Path) -> list[dict[str, Any]]:
    """Returns the lines of `golden/inputs.jsonl`."""
    lines = (bundle / "golden/inputs.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def write_golden_rows(bundle: Path, rows: list[dict[str, Any]]) -> None:
    """Writes `golden/inputs.jsonl`, and its hash into the certificate."""
    path = bundle / "golden/inputs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recertify(bundle, "golden/inputs.jsonl")


def write_vectors(bundle: Path, array: npt.NDArray[Any]) -> None:
    """Writes `golden/embeddings.npy`, and its hash into the certificate."""
    np.save(buffer := io.BytesIO(), array)
    (bundle / "golden/embeddings.npy").write_bytes(buffer.getvalue())
    recertify(bundle, "golden/embeddings.npy")


def recertify(bundle: Path, name: str) -> None:
    """Writes the hash of a golden file into the certificate."""
    digest = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    edit_file(bundle, "parity.json", lambda raw: raw["hashes"].update({name: digest}))
