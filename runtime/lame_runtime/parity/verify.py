"""Repeats a bundle's certificate on this device without PyTorch, for `lame-runtime verify`."""

from __future__ import annotations

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
from lame_runtime.bundle.certificate import Result, read_certificate
from lame_runtime.bundle.golden import Golden, read_golden
from lame_runtime.encoder import Encoder
from lame_runtime.errors import BackendError
from lame_runtime.loading import load
from lame_runtime.options import LoadOptions
from lame_runtime.parity.compare import contract_rows, graph_rows
from lame_runtime.parity.gates import GRAPH_VS_PYTORCH, judge
from lame_runtime.parity.on_device import prove


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
        BundleError: a file is missing or changed.
        BackendError: no graph runs; the message is that of the first graph.
        UsageError: the bundle has no such graph, or an option is out of range.
    """
    folder, graphs = folder_path("folder", folder), name_list("graphs", graphs)
    options = options or LoadOptions()
    bundle = Bundle.open(folder)
    bundle.check_all()
    certified = {row.key: row for row in read_certificate(folder).rows}
    # read once for all graphs, because decoding pictures takes longer than running a small graph
    golden = read_golden(folder)
    rows: list[VerifiedRow] = []
    failures: list[tuple[str, BackendError]] = []
    for graph in graphs or graphs_for(bundle, options):
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
    # the key ignores whether the exporting machine used the emulation
    return [replace(row, certified=certified.get(row.today.key)) for row in rows]


def report(rows: list[VerifiedRow]) -> dict[str, Any]:
    """Returns this device's certificate as a dict that can be written as JSON."""
    files = _unique(str(row.device_file) for row in rows if row.device_file is not None)
    return {
        "passed": all(row.today.passed is not False for row in rows),
        "rows": [row.today.to_json() for row in rows],
        "backend": ", ".join(_unique(row.backend for row in rows)),
        "certificates": files,
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
    return "\n".join(aligned + notes)


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


def _failed_row(graph: str, error: BackendError) -> Result:
    """Returns the row of a graph that did not run; its figures are NaN, which fail every gate."""
    gate = GRAPH_VS_PYTORCH[graph]
    figure = dict.fromkeys(gate, math.nan)
    return judge("graph vs PyTorch", graph, "mixed", 0, gate, figure, str(error))


def _unique(texts: Iterable[str]) -> list[str]:
    """Returns the non-empty texts without repetitions, in order of first occurrence."""
    return [text for text in dict.fromkeys(texts) if text]


def _figures(row: Result) -> str:
    return ", ".join(f"{value:.6g}" for value in row.figure.values())
