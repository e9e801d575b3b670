"""Reads and writes the table of contents of a bundle, `manifest.json`.

The manifest lists the sha256 of every file of the bundle and of its own canonical JSON. It is
written last, so a folder without a valid manifest is not a bundle.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError

FORMAT_VERSION = 1
KIND = "lame-bundle"
UNHASHED = ("manifest.json", "engines/")
"""Files that the manifest does not list: its own, and plans, which belong to one device."""
COPY_AGAIN = "copy or export the bundle again"


@dataclass(frozen=True)
class PartWidths:
    """Holds the sizes of one part of the model, used to estimate memory for TensorRT profiles."""

    hidden: int
    mlp: int
    heads: int


@dataclass(frozen=True)
class ModelFacts:
    """Holds facts about the exported model."""

    family: str
    """"qwen2_vl", "qwen2_5_vl" or "qwen3_vl"."""
    dim: int
    """Length P of the vectors."""
    n_reason: int
    """Number K of reason tokens; 0 for a plain embedder."""
    parameters: int
    exported_by: str
    """Name and version of the exporter."""
    widths: dict[str, PartWidths] = field(default_factory=dict)
    """Sizes of "encoder" and "vision"; missing in the first bundles of this format."""


@dataclass(frozen=True)
class GraphFiles:
    """Names the two ONNX files of one graph, relative to the bundle."""

    vision: str
    encoder: str


@dataclass(frozen=True)
class Manifest:
    """Holds the contents of `manifest.json`."""

    format_version: int
    kind: str
    model: ModelFacts
    graphs: dict[str, GraphFiles]
    """The files of each graph, by its name ("fp32", "fp16", …)."""
    files: dict[str, str]
    """Hex sha256 of every file, by its path relative to the bundle."""
    sha256: str = ""
    """Hash of the canonical JSON of the other fields; it identifies the bundle."""

    def to_json(self) -> str:
        """Returns the text of `manifest.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"


def sha256_file(path: Path) -> str:
    """Returns the hex sha256 of a file, which is read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def canonical_hash(manifest: dict[str, Any]) -> str:
    """Returns the sha256 of a manifest's canonical JSON: keys sorted, no spaces, no `sha256`."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    # one form for equal contents, so that reformatting the file does not change its hash
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def build_manifest(folder: Path, model: ModelFacts, graphs: dict[str, GraphFiles]) -> Manifest:
    """Returns a manifest of the files that `folder` contains now.

    Args:
        folder: the bundle under construction.
        model: facts about the model.
        graphs: the files of each graph, by its name.
    """
    # sorted, because the order of `rglob` depends on the file system
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    hashes = {name: sha256_file(folder / name) for name in names if not name.startswith(UNHASHED)}
    manifest = Manifest(FORMAT_VERSION, KIND, model, graphs, hashes)
    return replace(manifest, sha256=canonical_hash(asdict(manifest)))


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks `FOLDER/manifest.json`, but not the files that it lists.

    Raises:
        BundleError: the folder is not a bundle, or the manifest has an unknown format, was changed,
            or lacks a field.
    """
    path = folder / "manifest.json"
    raw = _read_json(folder, path)
    # version and kind first, because other formats may differ in every other field
    version = raw.get("format_version") if isinstance(raw, dict) else None
    # `type`, because JSON's true would equal 1
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format_version {version!r} is not known here (known: {FORMAT_VERSION}); "
            "upgrade lame-runtime"
        )
    if raw.get("kind") != KIND:
        raise BundleError(
            f"{path}: kind {raw.get('kind')!r} is not {KIND!r}; "
            "give the folder that lame-export wrote"
        )
    # hash the raw JSON, because parsing fills in defaults of missing fields
    if raw.get("sha256") != canonical_hash(raw):
        raise BundleError(
            f"{path}: was changed after it was written (its hash does not match); {COPY_AGAIN}"
        )
    manifest: Manifest = from_json_object(
        Manifest, raw, str(path), remedy=COPY_AGAIN, defaults=True
    )
    for name in manifest.files:
        # a manipulated path must not lead out of the bundle
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise BundleError(f"{path}: lists {name!r}, which is outside the bundle; {COPY_AGAIN}")
    return manifest


def check_files(folder: Path, manifest: Manifest, names: list[str]) -> None:
    """Checks files against their hashes in the manifest.

    Raises:
        BundleError: a file is missing, not listed, or has another hash; the message names the
            first such file.
    """
    for name in names:
        expected = manifest.files.get(name)
        path = folder / name
        if expected is None:
            raise BundleError(f"{path}: is not listed in the manifest; {COPY_AGAIN}")
        if not path.is_file():
            raise BundleError(f"{path}: is missing; {COPY_AGAIN}")
        if sha256_file(path) != expected:
            raise BundleError(
                f"{path}: differs from what was exported (wrong sha256); {COPY_AGAIN}"
            )


def _read_json(folder: Path, path: Path) -> Any:
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder; give the folder that lame-export wrote")
    if not path.is_file():
        # passing a checkpoint is the most frequent mistake, so it gets its own remedy
        if (folder / "model.safetensors").is_file():
            raise BundleError(
                f"{folder}: this is a checkpoint, not a bundle; "
                f"export it first: lame-export bundle {folder} BUNDLE --data DATA"
            )
        raise BundleError(
            f"{folder}: has no manifest.json, so it is not a LaME bundle; "
            "give the folder that lame-export wrote"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); {COPY_AGAIN}") from None
