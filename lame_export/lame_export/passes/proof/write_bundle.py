"""Writes the certificate and the manifest, which make the folder a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.bundle.bundle import PARTS
from lame_runtime.bundle.certificate import Certificate, Int8Choice
from lame_runtime.bundle.manifest import GraphFiles, build_manifest, sha256_file

from lame_export.model_facts import environment, model_facts
from lame_export.parity.golden_set import spread
from lame_export.passes.base import Pass, graph_files
from lame_export.state import ExportState


class WriteBundle(Pass):
    """Writes `parity.json`, then `manifest.json`, which hashes every file written before it."""

    name = "write"
    reads = ("model", "reference", "golden", "rows")

    def input_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of every graph."""
        return graph_files(state, state.graphs)

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the certificate and the manifest."""
        return [state.folder / "parity.json", state.folder / "manifest.json"]

    def run(self, state: ExportState) -> None:
        """Writes the certificate, then the manifest."""
        # the manifest lists the certificate's hash, so it comes last
        write_certificate(state)
        write_manifest(state)


def write_certificate(state: ExportState) -> None:
    """Writes `parity.json` from the rows so far."""
    # the hashes tie the figures to the files that they were measured on
    files = sorted(
        path
        for folder in ("graphs", "golden")
        for path in (state.folder / folder).rglob("*")
        if path.is_file()
    )
    # unset if the bundle has no INT8 graph
    configs = state.configs if state.is_set("configs") else {}
    certificate = Certificate(
        passed=all(row.passed is not False for row in state.rows),
        rows=state.rows,
        fp16_islands=state.islands,
        int8=Int8Choice(
            chosen={graph: config.to_json() for graph, config in configs.items()},
            tried=[trial.to_json() for trial in state.tried],
        ),
        golden_spread=spread(state.golden.embeddings),
        environment={
            **environment(),
            # no name of a folder: it says something about the exporting machine alone
            "data": "built-in" if state.builtin_data else "given",
        },
        passes=state.passes,
        hashes={path.relative_to(state.folder).as_posix(): sha256_file(path) for path in files},
    )
    (state.folder / "parity.json").write_text(certificate.to_json(), encoding="utf-8")


def write_manifest(state: ExportState) -> None:
    """Writes `manifest.json`, which lists the files that the bundle contains now."""
    graphs = {
        graph: GraphFiles(*(f"graphs/{part}.{graph}.onnx" for part in PARTS))
        for graph in state.graphs
    }
    facts = model_facts(state.model, state.reference.preparer.contract)
    manifest = build_manifest(state.folder, facts, graphs)
    (state.folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
