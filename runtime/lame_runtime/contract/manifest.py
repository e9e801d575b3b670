"""The bundle's table of contents: `manifest.json`, its hashes, and what they protect.

The manifest lists the sha256 of every file of the bundle and of its own canonical JSON, and is written
last: a folder without a valid manifest is not a bundle.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lame_runtime.errors import BundleError

FORMAT_VERSION = 1
KIND = "lame-bundle"
UNHASHED = ("manifest.json", "engines/")
"""The manifest hashes itself; plans belong to one device and are never part of what is shipped."""


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def canonical_hash(manifest: dict[str, Any]) -> str:
    """sha256 of the manifest's canonical JSON (sorted keys, no spaces), its own `sha256` left out."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def build_manifest(folder: Path, model: dict[str, Any], graphs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The manifest of the files that lie in `folder` now.

    Args:
        folder: the bundle under construction.
        model: facts about the model (family, dim, n_reason, parameters, …).
        graphs: per graph name, {"vision": path, "encoder": path, …}, relative to the folder.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    relative = [path.relative_to(folder).as_posix() for path in files]
    manifest = {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "model": model,
        "graphs": graphs,
        "files": {name: sha256_file(folder / name) for name in relative if not name.startswith(UNHASHED)},
    }
    return {**manifest, "sha256": canonical_hash(manifest)}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads and checks `folder/manifest.json` (not yet the files it lists).

    Raises:
        BundleError: no bundle here, a checkpoint instead, an unknown format, or a manifest that was changed.
    """
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder; give the folder that lame-export wrote")
    if not path.is_file():
        if (folder / "model.safetensors").is_file():
            raise BundleError(
                f"{folder}: this is a checkpoint, not a bundle; export it first: lame-export bundle {folder} BUNDLE --data DATA"
            )
        raise BundleError(f"{folder}: has no manifest.json, so it is not a LaME bundle; give the folder that lame-export wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); copy or export the bundle again") from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(f"{path}: format_version {version!r} is not known here (known: {FORMAT_VERSION}); upgrade lame-runtime")
    if manifest.get("kind") != KIND:
        raise BundleError(f"{path}: kind {manifest.get('kind')!r} is not {KIND!r}; give the folder that lame-export wrote")
    if manifest.get("sha256") != canonical_hash(manifest):
        raise BundleError(f"{path}: was changed after it was written (its hash does not match); copy or export the bundle again")
    graphs = manifest.get("graphs")
    whole = isinstance(graphs, dict) and all(isinstance(g, dict) and {"vision", "encoder"} <= set(g) for g in graphs.values())
    if not whole or not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("model"), dict):
        raise BundleError(f"{path}: lacks files, model or the two parts of each graph; export the bundle again")
    return manifest  # type: ignore[no-any-return]


def check_files(folder: Path, manifest: dict[str, Any], names: list[str]) -> None:
    """Compares files with their hashes in the manifest.

    Raises:
        BundleError: the first file that is missing, unlisted or different.
    """
    for name in names:
        expected = manifest["files"].get(name)
        path = folder / name
        if expected is None:
            raise BundleError(f"{path}: is not listed in the manifest; copy or export the bundle again")
        if not path.is_file():
            raise BundleError(f"{path}: is missing; copy or export the bundle again")
        if sha256_file(path) != expected:
            raise BundleError(f"{path}: differs from what was exported (wrong sha256); copy or export the bundle again")
