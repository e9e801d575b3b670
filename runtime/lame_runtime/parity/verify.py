"""Repeats a bundle's certificate on this device without PyTorch, for `lame-runtime verify`."""

from __future__ import annotations

import itertools
import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lame_runtime.arguments import folder_path, name_list
from lame_runtime.backends.select import graphs_for
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.certificate import Certificate, Result, read_certificate
from lame_runtime.bundle.golden import Golden
from lame_runtime.bundle.members import COPY_AGAIN
from lame_runtime.encoder import Encoder
from lame_runtime.errors import BackendError, BundleError, UsageError, printable, shown
from lame_runtime.loading import load
from lame_runtime.options import LoadOptions
from lame_runtime.parity import gates
from lame_runtime.parity.compare import contract_rows, graph_rows
from lame_runtime.parity.gates import judge
from lame_runtime.parity.on_device import prove

REPEATED = ("contract vs golden", "graph vs PyTorch", "alone vs in a batch", "finite")
"""Beginnings of the names of comparisons that are measured on the golden inputs and need no
PyTorch."""


@dataclass(frozen=True)
class VerifiedRow:
    """Holds one row measured on this device, and the row of the certificate that it repeats."""

    today: Result
    certified: Result | None
    """Row of the certificate; None if it has no such row, as for TensorRT profiles."""
    backend: str = ""
    """Name of the backend that ran; empty if nothing ran."""
    device_file: Path | None = None
    """This device's certificate of TensorRT plans, if it was written."""
    note: str = ""
    """Remark about the graph, such as the number of golden inputs that fit no profile."""


def verify(
    folder: Path, graphs: list[str] | None = None, options: LoadOptions | None = None
) -> list[VerifiedRow]:
    """Checks every file's hash, then runs the golden vectors through the contract and each graph.

    A graph that does not run becomes a failed row with the reason, and the others are still
    checked. For TensorRT the result is also stored beside the plans; see
    `lame_runtime.parity.on_device`.

    Args:
        folder: the bundle.
        graphs: the graphs to check; None takes all that the backend can run.
        options: how graphs are loaded; its `graph`, `check_hashes` and `prove_plans` are not used.

    Returns:
        The rows, each with the matching row of the certificate.

    Raises:
        BundleError: a file is missing or changed, is not part of the bundle, or there is less to
            verify than was certified.
        BackendError: no graph runs; the message is that of the first graph.
        UsageError: the bundle has no such graph, or an option is out of range.
    """
    folder, graphs = folder_path("folder", folder), name_list("graphs", graphs)
    options = options or LoadOptions()
    bundle = Bundle.open(folder)
    bundle.check_all()
    certificate = read_certificate(folder)
    certified = {row.key: row for row in certificate.rows}
    # read once for all graphs, because decoding pictures takes longer than running a small graph
    golden = bundle.golden()
    require_as_certified(bundle, certificate, golden)
    notes = _other_graph_files(bundle, certificate)
    if leftovers := bundle.leftovers():
        notes.append(f"not part of the bundle, neither hashed nor read: {', '.join(leftovers)}")
    rows: list[VerifiedRow] = []
    failures: list[tuple[str, BackendError]] = []
    selected = graphs_for(bundle, options) if graphs is None else graphs
    if not selected:
        # an empty list must not read as "0 of 0 rows hold"
        raise UsageError("`graphs` names no graph, so nothing would be verified")
    for graph in selected:
        gates.bounds(gates.GRAPH_VS_PYTORCH, graph)
        # all hashes were checked above; plans are proved below, even if they passed earlier
        loaded = replace(options, graph=graph, check_hashes=False, prove_plans=False)
        try:
            with load(folder, loaded, Encoder) as encoder:
                if not rows:
                    # preprocessing is the same for all graphs, so it is checked only once
                    name = encoder.backend.name
                    contract = contract_rows(encoder.preparer, golden)
                    rows += [VerifiedRow(row, None, name) for row in contract]
                rows += _graph_rows(encoder, bundle, golden)
        except BackendError as error:
            # reported at the end, because the other graphs may run
            failures.append((graph, error))
    if failures and not rows:
        # if nothing ran, the reason is more useful than a table of failures
        raise failures[0][1]
    rows += [VerifiedRow(_failed_row(graph, error), None) for graph, error in failures]
    rows[0] = replace(rows[0], note="; ".join(filter(None, [rows[0].note, *notes])))
    # the key ignores whether the exporting machine used the emulation
    return [replace(row, certified=certified.get(row.today.key)) for row in rows]


def require_as_certified(bundle: Bundle, certificate: Certificate, golden: Golden) -> None:
    """Checks that nothing was taken out of a bundle since its certificate was written.

    Raises:
        BundleError: a golden file was not certified, has another hash or is gone, golden inputs are
            fewer or more than a row of the certificate was measured on, or a graph has no such row.
    """
    files = bundle.manifest.files
    # every exporter has written the hashes of all of them
    for name in (*certificate.hashes, *files):
        # graphs are not compared: the golden vectors judge whatever is there
        if name.startswith("golden/") and files.get(name) != certificate.hashes.get(name):
            raise BundleError(
                f"{shown(bundle.folder / name)}: is not the file that was certified; {COPY_AGAIN}"
            )
    sizes = {modality: len(golden.of(modality)) for modality in golden.modalities}
    # rows on graphs that were left out of a copy are not repeated
    for row in certificate.rows:
        repeated = row.comparison.startswith(REPEATED) and row.graph in ("", *bundle.graphs)
        size = len(golden.inputs) if row.modality == "mixed" else sizes.get(row.modality, 0)
        if repeated and size != row.inputs:
            raise BundleError(
                f"{shown(bundle.folder)}: {shown(row.comparison)}, {shown(row.modality)}, "
                f"was certified on {row.inputs} golden inputs, {size} are left; {COPY_AGAIN}"
            )
    certified = {
        (row.graph, row.modality)
        for row in certificate.rows
        # a row without a gate reports figures and certifies nothing
        if row.gate is not None and row.comparison.startswith("graph vs PyTorch")
    }
    for graph, modality in itertools.product(bundle.graphs, golden.modalities):
        if (graph, modality) not in certified:
            raise BundleError(
                f"{shown(bundle.folder)}: the certificate has no row for graph {graph}, "
                f"{shown(modality)}; {COPY_AGAIN}"
            )


def report(rows: list[VerifiedRow]) -> dict[str, Any]:
    """Returns this device's certificate as a dict that can be written as JSON."""
    # printable, because a folder's name may be no text: JSON would be in no encoding
    files = _unique(printable(str(row.device_file)) for row in rows if row.device_file is not None)
    return {
        "passed": all(row.today.passed is not False for row in rows),
        "rows": [row.today.to_json() for row in rows],
        "backend": ", ".join(_unique(row.backend for row in rows)),
        "certificates": files,
        "notes": _unique(printable(row.note) for row in rows),
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def table(rows: list[VerifiedRow]) -> str:
    """Returns the rows as aligned text, with the certificate's and today's figures, and remarks."""
    lines = [("comparison", "graph", "modality", "inputs", "certificate", "today", "")]
    for row in rows:
        today = row.today
        mark = {True: "ok", False: "FAILED", None: ""}[today.passed]
        before = "—" if row.certified is None else _figures(row.certified)
        names = (today.comparison, today.graph, today.modality, str(today.inputs))
        lines.append((*names, before, today.describe(), mark))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    files = (row.device_file for row in rows if row.device_file is not None)
    notes = _unique(row.note for row in rows)
    notes += _unique(f"this device's certificate: {file}" for file in files)
    # names of files and of graphs come from the bundle
    return "\n".join(printable(line) for line in aligned + notes)


def _graph_rows(encoder: Encoder, bundle: Bundle, golden: Golden) -> list[VerifiedRow]:
    """Returns the rows of one graph, measured on this device."""
    name = encoder.backend.name
    if encoder.build is None:
        rows = graph_rows(encoder, encoder.graph, golden)
        return [VerifiedRow(row, None, name) for row in rows]
    # plans get one row per profile as well, and a certificate of their own
    proof = prove(encoder, bundle, encoder.build)
    note = f"{encoder.graph}: {proof.describe()}"
    return [VerifiedRow(row, None, name, proof.file, note) for row in proof.rows]


def _other_graph_files(bundle: Bundle, certificate: Certificate) -> list[str]:
    """Returns a note for each file of a graph that is not the one that was certified."""
    return [
        f"{shown(name)} is not the file that was certified; the rows above are those of the file "
        "here"
        for graph in bundle.graphs
        for name, sha256 in bundle.graph_hashes(graph).items()
        if certificate.hashes.get(name) != sha256
    ]


def _failed_row(graph: str, error: BackendError) -> Result:
    """Returns the row of a graph that did not run; its figures are NaN, which fail every gate."""
    gate = gates.bounds(gates.GRAPH_VS_PYTORCH, graph)
    figure = dict.fromkeys(gate, math.nan)
    return judge("graph vs PyTorch", graph, "mixed", 0, gate, figure, str(error))


def _unique(texts: Iterable[str]) -> list[str]:
    """Returns the non-empty texts without repetitions, in order of first occurrence."""
    return [text for text in dict.fromkeys(texts) if text]


def _figures(row: Result) -> str:
    return ", ".join(f"{value:.6g}" for value in row.figure.values())
