"""Opens a bundle, finds the files of its graphs, and checks their hashes."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lame_runtime.bundle.graph_source import check_graph
from lame_runtime.bundle.manifest import COPY_AGAIN, Manifest, check_files, read_manifest
from lame_runtime.errors import BundleError, UsageError
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular

PARTS = ("vision", "encoder")
"""The two parts of every graph, one ONNX file each."""


@dataclass(frozen=True)
class Bundle:
    """Represents an opened bundle, whose small files have been checked against their hashes."""

    folder: Path
    manifest: Manifest

    @staticmethod
    def open(folder: Path) -> Bundle:
        """Opens a bundle: reads the manifest and checks contract, tokenizer and certificate.

        Raises:
            BundleError: the folder is not a bundle, or one of these files is damaged.
        """
        manifest = read_manifest(folder)
        # only the small files; a graph of gigabytes is hashed when it is loaded
        check_files(folder, manifest, ["contract.json", "tokenizer.json", "parity.json"])
        return Bundle(folder, manifest)

    def read(self, name: str) -> bytes:
        """Returns the content of a small file; its hash is that of the very bytes returned.

        Raises:
            BundleError: the file is missing, not listed, too large, or has another hash.
        """
        path = self.folder / name
        try:
            content = read_regular(path, MAX_JSON_BYTES)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); {COPY_AGAIN}") from None
        if hashlib.sha256(content).hexdigest() != self.manifest.files.get(name):
            raise BundleError(
                f"{path}: differs from what was exported (wrong sha256); {COPY_AGAIN}"
            )
        return content

    def read_text(self, name: str) -> str:
        """Returns the content of a small text file in UTF-8; raises `BundleError` as `read`."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(
                f"{self.folder / name}: is not UTF-8 ({error}); {COPY_AGAIN}"
            ) from None

    @property
    def graphs(self) -> list[str]:
        """Names of the graphs in the bundle."""
        return list(self.manifest.graphs)

    def graph_files(self, graph: str) -> list[str]:
        """Returns the files of one graph, relative to the folder: two ONNX files and their weights.

        Raises:
            UsageError: the bundle has no such graph.
            BundleError: the manifest lists the graph but not its files.
        """
        if graph not in self.manifest.graphs:
            raise UsageError(
                f"`graph` is {graph!r}, which {self.folder} does not have: "
                f"use {', '.join(self.graphs)}"
            )
        parts = self.manifest.graphs[graph]
        onnx_files = [parts.vision, parts.encoder]
        for name in onnx_files:
            if name not in self.manifest.files:
                raise BundleError(
                    f"{self.folder / name}: is not listed in the manifest; {COPY_AGAIN}"
                )
        # weights are stored beside their graph as NAME.data; a graph of a few kilobytes has none
        return [
            name
            for name in self.manifest.files
            if any(name in (onnx_file, f"{onnx_file}.data") for onnx_file in onnx_files)
        ]

    def graph_hashes(self, graph: str) -> dict[str, str]:
        """Returns the sha256 of the files of one graph; empty if the bundle has no such graph."""
        if graph not in self.manifest.graphs:
            return {}
        return {name: self.manifest.files[name] for name in self.graph_files(graph)}

    def size(self, graph: str) -> int:
        """Returns the size of a graph's files in bytes; raises `BundleError` if one is missing."""
        try:
            # from the disk, because the manifest lists hashes but no sizes
            return sum((self.folder / name).stat().st_size for name in self.graph_files(graph))
        except OSError as error:
            raise BundleError(f"{error.filename}: {error.strerror}; {COPY_AGAIN}") from None

    def graph_paths(self, graph: str, *, check_hashes: bool = True) -> tuple[Path, Path]:
        """Returns the paths of the vision and the encoder graph, after checking their hashes.

        Raises:
            UsageError: the bundle has no such graph.
            BundleError: a file is missing or has another hash, or a graph holds or refers to what
                no exported graph does.
        """
        files = self.graph_files(graph)
        # hashing gigabytes takes seconds, which `check_hashes=False` saves on a trusted disk
        if check_hashes:
            check_files(self.folder, self.manifest, files)
        parts = self.manifest.graphs[graph]
        paths = self.folder / parts.vision, self.folder / parts.encoder
        for path in paths:
            check_graph(path)
        return paths

    def check_golden(self) -> None:
        """Checks the hashes of the golden files; raises `BundleError` if one differs."""
        listed = [name for name in self.manifest.files if name.startswith("golden/")]
        # the two files by name as well, because a manifest without them must not pass
        names = ["golden/inputs.jsonl", "golden/embeddings.npy", *listed]
        check_files(self.folder, self.manifest, names)

    def golden_embeddings(self) -> npt.NDArray[np.float32]:
        """Reads PyTorch's embeddings of the golden inputs, float32 (n, P); raises `BundleError`."""
        path = self.folder / "golden/embeddings.npy"
        content = self.read("golden/embeddings.npy")
        try:
            # unpickling would run code from the file
            embeddings = np.load(io.BytesIO(content), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: cannot be read ({error}); {COPY_AGAIN}") from None
        return np.asarray(embeddings, dtype=np.float32)

    def check_all(self) -> int:
        """Checks the hash of every listed file and returns the number of files.

        Raises:
            BundleError: a file is missing, has another hash, or is not listed in the manifest.
        """
        check_files(self.folder, self.manifest, list(self.manifest.files))
        # files that were added after the export were never certified
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            # plans are built on the device, after the manifest has been written
            shipped = name != "manifest.json" and not name.startswith("engines/")
            if path.is_file() and shipped and name not in self.manifest.files:
                raise BundleError(f"{path}: is not part of the bundle; move it elsewhere")
        return len(self.manifest.files)
