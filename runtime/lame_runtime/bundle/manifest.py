"""Reads and writes the table of contents of a bundle, `manifest.json`.

The manifest lists the sha256 of every file of the bundle and of its own canonical JSON. It is
written last, so a folder without a valid manifest is not a bundle.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from lame_runtime.bundle.leftovers import is_leftover
from lame_runtime.bundle.members import (
    COPY_AGAIN,
    hash_member,
    hash_stream,
    name_problem,
    read_member,
    unreadable,
)
from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError, shown
from lame_runtime.files.constraints import Between, Count, Length, Line, Name, Sha256, Text
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.regular import open_regular

FORMAT_VERSION = 1
KIND = "lame-bundle"
UNHASHED = ("manifest.json", "engines")
"""File and folder that the manifest does not list: its own, and plans of one device."""
MAX_MANIFEST_BYTES = 16 << 20
"""Largest `manifest.json` that is read; a file of the bundle takes about 100 bytes in it."""

FileName = Annotated[str, Text(1000, 1)]
GraphName = Annotated[str, Text(50, 1, pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*")]
Width = Annotated[int, Between(1, 1 << 24)]


@dataclass(frozen=True)
class PartWidths:
    """Holds the sizes of one part of the model, used to estimate memory for TensorRT profiles."""

    hidden: Width
    mlp: Width
    heads: Width


@dataclass(frozen=True)
class ModelFacts:
    """Holds facts about the exported model."""

    family: Name
    """"qwen2_vl", "qwen2_5_vl", "qwen3_vl" or "qwen3_vl_moe"."""
    dim: Annotated[int, Between(1, 65_536)]
    """Length P of the vectors."""
    n_reason: Annotated[int, Between(0, 4096)]
    """Number K of reason tokens; 0 for a plain embedder."""
    parameters: Count
    exported_by: Line
    """Name and version of the exporter."""
    widths: Annotated[dict[Name, PartWidths], Length(10)] = field(default_factory=dict)
    """Sizes of "encoder" and "vision"; missing in the first bundles of this format."""


@dataclass(frozen=True)
class GraphFiles:
    """Names the two ONNX files of one graph, relative to the bundle."""

    vision: FileName
    encoder: FileName


@dataclass(frozen=True)
class Manifest:
    """Holds the contents of `manifest.json`."""

    format_version: Annotated[int, Between(FORMAT_VERSION, FORMAT_VERSION)]
    kind: Name
    model: ModelFacts
    graphs: Annotated[dict[GraphName, GraphFiles], Length(100, 1)]
    """The files of each graph, by its name ("fp32", "fp16", …)."""
    files: Annotated[dict[FileName, Sha256], Length(100_000, 1)]
    """Hex sha256 of every file, by its path relative to the bundle."""
    sha256: Annotated[str, Text(64, pattern="([0-9a-f]{64})?")] = ""
    """Hash of the canonical JSON of the other fields; it identifies the bundle."""

    def to_json(self) -> str:
        """Returns the text of `manifest.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"


def sha256_file(path: Path) -> str:
    """Returns the hex sha256 of a regular file.

    Raises:
        OSError: the file cannot be read, or is a pipe, a socket or a device.
    """
    with open_regular(path) as file:
        return hash_stream(file)


def canonical_hash(manifest: dict[str, Any]) -> str:
    """Returns the sha256 of a manifest's canonical JSON: keys sorted, no spaces, no `sha256`."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    # one form for equal contents, so that reformatting the file does not change its hash
    try:
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        # as deep as the parser can just read; no manifest has more than four levels
        raise BundleError(f"the manifest is nested too deeply; {COPY_AGAIN}") from None
    return hashlib.sha256(text.encode()).hexdigest()


def build_manifest(folder: Path, model: ModelFacts, graphs: dict[str, GraphFiles]) -> Manifest:
    """Returns a manifest of the files that `folder` contains now.

    Args:
        folder: the bundle under construction.
        model: facts about the model.
        graphs: the files of each graph, by its name.

    Raises:
        BundleError: the folder holds a link, a pipe, or a file of a name that no bundle may hold.
    """
    # sorted, because the order of `rglob` depends on the file system
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in paths]
    hashes = {}
    for name in names:
        if name.split("/")[0] in UNHASHED:
            continue
        # whoever reads the bundle would refuse a link, and hold a leftover for one of its files
        if (folder / name).is_symlink() or is_leftover(name):
            raise BundleError(
                f"{shown(folder / name)}: does not belong in a bundle; move it elsewhere"
            )
        hashes[name] = hash_member(folder, name)
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
            f"{shown(path)}: format_version {shown(repr(version))} is not known here "
            f"(known: {FORMAT_VERSION}); upgrade lame-runtime"
        )
    if raw.get("kind") != KIND:
        raise BundleError(
            f"{shown(path)}: kind {shown(repr(raw.get('kind')))} is not {KIND!r}; "
            "give the folder that lame-export wrote"
        )
    # hash the raw JSON, because parsing fills in defaults of missing fields
    if raw.get("sha256") != canonical_hash(raw):
        raise BundleError(
            f"{shown(path)}: was changed after it was written (its hash does not match); "
            f"{COPY_AGAIN}"
        )
    manifest: Manifest = from_json_object(
        Manifest, raw, str(path), remedy=COPY_AGAIN, defaults=True
    )
    graph_files = (name for parts in manifest.graphs.values() for name in asdict(parts).values())
    for name in (*manifest.files, *graph_files):
        # a manipulated path must not lead out of the bundle
        if problem := name_problem(name):
            raise BundleError(
                f"{shown(path)}: lists {shown(name)!r}, which {problem}; {COPY_AGAIN}"
            )
    return manifest


def check_files(folder: Path, manifest: Manifest, names: list[str]) -> None:
    """Checks files against their hashes in the manifest.

    Raises:
        BundleError: a file is missing, not listed, may not be read, is not a regular file of the
            bundle, or has another hash; the message names the first such file.
    """
    for name in names:
        expected = manifest.files.get(name)
        path = folder / shown(name)
        if expected is None:
            raise BundleError(f"{shown(path)}: is not listed in the manifest; {COPY_AGAIN}")
        if hash_member(folder, name) != expected:
            raise BundleError(
                f"{shown(path)}: differs from what was exported (wrong sha256); {COPY_AGAIN}"
            )


def _read_json(folder: Path, path: Path) -> Any:
    try:
        if not folder.is_dir():
            raise BundleError(
                f"{shown(folder)}: no such folder; give the folder that lame-export wrote"
            )
        # `lstat`, because a dangling link is a damaged bundle
        path.lstat()
    except FileNotFoundError:
        raise _not_a_bundle(folder) from None
    # a null character in the name is a ValueError
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    try:
        return parse_json(read_member(folder, "manifest.json", MAX_MANIFEST_BYTES), strict=True)
    except ValueError as error:
        raise BundleError(f"{shown(path)}: cannot be read ({error}); {COPY_AGAIN}") from None


def _not_a_bundle(folder: Path) -> BundleError:
    # passing a checkpoint is the most frequent mistake, so it gets its own remedy
    if (folder / "model.safetensors").is_file():
        return BundleError(
            f"{shown(folder)}: this is a checkpoint, not a bundle; "
            f"export it first: lame-export bundle {shown(folder)} BUNDLE"
        )
    return BundleError(
        f"{shown(folder)}: has no manifest.json, so it is not a LaME bundle; "
        "give the folder that lame-export wrote"
    )
