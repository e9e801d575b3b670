"""Opens a bundle, finds the files of its graphs, and checks their hashes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lame_runtime.bundle.golden import GOLDEN_INPUTS, GOLDEN_VECTORS, Golden, read_golden
from lame_runtime.bundle.graph_source import check_graph
from lame_runtime.bundle.leftovers import find_leftovers
from lame_runtime.bundle.manifest import Manifest, check_files, read_manifest
from lame_runtime.bundle.members import COPY_AGAIN, open_member, read_member
from lame_runtime.bundle.vector_file import read_vectors
from lame_runtime.contract.fields.vocabulary import check_vocabulary
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.vectors import finish
from lame_runtime.errors import BundleError, UsageError, shown
from lame_runtime.files.graphs.onnx_graph import data_names
from lame_runtime.files.json_file import MAX_JSON_BYTES

PARTS = ("vision", "encoder")
"""The two parts of every graph, one ONNX file each."""
CONTRACT = "contract.json"


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

    def check_contract(self, preparer: Preparer) -> None:
        """Checks that contract and tokenizer belong to the model that the manifest describes.

        Raises:
            BundleError: they differ in a fact, so that ids or vectors would be another model's.
        """
        contract, model, path = preparer.contract, self.manifest.model, self.folder / CONTRACT
        check_vocabulary(contract, preparer.tokenizer, path)
        for name, value, expected in (
            ("family", contract.family, model.family),
            ("dim", contract.dim, model.dim),
            ("tokens.n_reason", contract.tokens.n_reason, model.n_reason),
        ):
            if value != expected:
                raise BundleError(
                    f"{shown(path)}: {name} is {shown(value)}, the model's is {shown(expected)}; "
                    f"{COPY_AGAIN}"
                )

    def read(self, name: str) -> bytes:
        """Returns the content of a small file; its hash is that of the very bytes returned.

        Raises:
            BundleError: the file is missing, not listed, too large, or has another hash.
        """
        content = read_member(self.folder, name, MAX_JSON_BYTES)
        if hashlib.sha256(content).hexdigest() != self.manifest.files.get(name):
            raise BundleError(
                f"{shown(self.folder / name)}: differs from what was exported (wrong sha256); "
                f"{COPY_AGAIN}"
            )
        return content

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
                f"`graph` is {shown(graph)!r}, which {shown(self.folder)} does not have: "
                f"use {shown(', '.join(self.graphs), 400)}"
            )
        parts = self.manifest.graphs[graph]
        onnx_files = [parts.vision, parts.encoder]
        for name in onnx_files:
            if name not in self.manifest.files:
                raise BundleError(
                    f"{shown(self.folder / name)}: is not listed in the manifest; {COPY_AGAIN}"
                )
        # weights are stored beside their graph; a graph of a few kilobytes has none
        listed = [
            [name for name in data_names(file) if name in self.manifest.files]
            for file in onnx_files
        ]
        members = {*onnx_files, *(names[0] for names in listed if names)}
        return [name for name in self.manifest.files if name in members]

    def graph_hashes(self, graph: str) -> dict[str, str]:
        """Returns the sha256 of the files of one graph; empty if the bundle has no such graph."""
        if graph not in self.manifest.graphs:
            return {}
        return {name: self.manifest.files[name] for name in self.graph_files(graph)}

    def size(self, graph: str) -> int:
        """Returns the size of a graph's files in bytes.

        Raises:
            BundleError: a file is missing, may not be read, or is not a regular file.
        """
        total = 0
        for name in self.graph_files(graph):
            # from the disk, because the manifest lists hashes but no sizes
            with open_member(self.folder, name) as file:
                total += file.seek(0, os.SEEK_END)
        return total

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
        names = [GOLDEN_INPUTS, GOLDEN_VECTORS, *listed]
        check_files(self.folder, self.manifest, names)

    def golden(self) -> Golden:
        """Reads the golden inputs, whose files must be listed in the manifest.

        Raises:
            BundleError: a file cannot be read, or the vectors have another length than the model's.
        """
        return self._of_this_model(read_golden(self.folder, self.manifest.files))

    def golden_embeddings(self) -> npt.NDArray[np.float32]:
        """Reads PyTorch's embeddings of the golden inputs, float32 (n, P); raises `BundleError`."""
        sha256 = self.manifest.files.get(GOLDEN_VECTORS)
        if sha256 is None:
            raise BundleError(
                f"{shown(self.folder / GOLDEN_VECTORS)}: is not listed in the manifest; "
                f"{COPY_AGAIN}"
            )
        vectors = read_vectors(self.folder, GOLDEN_VECTORS, sha256)
        return self._of_this_model(Golden([], vectors)).embeddings

    def largest_value(self, width: int) -> float:
        """Returns the largest absolute value in the golden vectors, cut to unit rows of a width.

        It is what the largest integer of 8-bit vectors stands for: fixed, because vectors of two
        calls with different ranges could not be compared.

        Raises:
            BundleError: the golden vectors cannot be read.
        """
        return float(np.abs(finish(self._golden_embeddings, truncate_dim=width)).max())

    @cached_property
    def _golden_embeddings(self) -> npt.NDArray[np.float32]:
        return self.golden_embeddings()

    def check_all(self) -> int:
        """Checks the hash of every listed file and returns the number of files.

        Raises:
            BundleError: a file is missing, has another hash, or is not listed in the manifest.
        """
        check_files(self.folder, self.manifest, list(self.manifest.files))
        # files that were added after the export were never certified
        self.leftovers()
        return len(self.manifest.files)

    def leftovers(self) -> list[str]:
        """Returns the names of files that hubs, clones and desktops left; they are never read.

        Raises:
            BundleError: the bundle holds any other file that is not listed, a link or a pipe.
        """
        return find_leftovers(self.folder, [*self.manifest.files, "manifest.json"])

    def _of_this_model(self, golden: Golden) -> Golden:
        width, dim = golden.embeddings.shape[1], self.manifest.model.dim
        if width != dim:
            raise BundleError(
                f"{shown(self.folder / GOLDEN_VECTORS)}: holds vectors of {width} values, the "
                "model's "
                f"have {dim}; {COPY_AGAIN}"
            )
        return golden
