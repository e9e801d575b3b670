"""A bundle on disk: what it holds, and the hashes checked before any of it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.contract.manifest import check_files, read_manifest
from lame_runtime.errors import BundleError, InputError

PARTS = ("vision", "encoder")
"""The two files of every graph."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest is intact, and so are contract, tokenizer and certificate."""

    folder: Path
    manifest: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> Bundle:
        """Reads the manifest and checks contract, tokenizer and certificate; raises `BundleError`."""
        manifest = read_manifest(folder)
        check_files(folder, manifest, ["contract.json", "tokenizer.json", "parity.json"])
        return Bundle(folder, manifest)

    @property
    def graphs(self) -> list[str]:
        """Names of the graphs in the bundle."""
        return list(self.manifest["graphs"])

    def graph_files(self, graph: str) -> list[str]:
        """Every file of one graph, relative to the folder: two ONNX files and their weights.

        Raises:
            InputError: the bundle has no such graph.
        """
        if graph not in self.manifest["graphs"]:
            raise InputError(f"{self.folder}: has no graph {graph!r}; ask for one of {', '.join(self.graphs)} (--graph)")
        names = [self.manifest["graphs"][graph][part] for part in PARTS]
        if unlisted := [name for name in names if name not in self.manifest["files"]]:
            raise BundleError(f"{self.folder / unlisted[0]}: is not listed in the manifest; copy or export the bundle again")
        return [name for name in self.manifest["files"] if any(name in (each, f"{each}.data") for each in names)]

    def size(self, graph: str) -> int:
        """Bytes of a graph's files; raises `BundleError` where one is missing."""
        try:
            return sum((self.folder / name).stat().st_size for name in self.graph_files(graph))
        except OSError as error:
            raise BundleError(f"{error.filename}: {error.strerror}; copy or export the bundle again") from None

    def graph_paths(self, graph: str, *, check_hashes: bool = True) -> tuple[Path, Path]:
        """Paths of the vision and the encoder graph, hashes checked unless told otherwise."""
        files = self.graph_files(graph)
        if check_hashes:
            check_files(self.folder, self.manifest, files)
        parts = self.manifest["graphs"][graph]
        return self.folder / parts["vision"], self.folder / parts["encoder"]

    def check_golden(self) -> None:
        """Compares the golden vectors' files with their hashes; raises `BundleError`."""
        listed = [name for name in self.manifest["files"] if name.startswith("golden/")]
        check_files(self.folder, self.manifest, ["golden/inputs.jsonl", "golden/embeddings.npy", *listed])

    def check_all(self) -> int:
        """Compares every listed file with its hash and returns how many there are.

        Raises:
            BundleError: a file is missing or different, or a file lies there that the manifest does not list.
        """
        check_files(self.folder, self.manifest, list(self.manifest["files"]))
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name != "manifest.json" and not name.startswith("engines/") and name not in self.manifest["files"]:
                raise BundleError(f"{path}: is not part of the bundle; move it elsewhere")
        return len(self.manifest["files"])
