"""`lame-runtime verify`: the certificate's rows anew, on this device, without PyTorch."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lame_runtime.bundle import Bundle
from lame_runtime.compare import contract_rows, graph_rows
from lame_runtime.device_check import prove
from lame_runtime.encoder import Encoder
from lame_runtime.errors import BackendError, BundleError
from lame_runtime.gates import GRAPH_VS_PYTORCH, Result, judge, result_from_json
from lame_runtime.golden import Golden, read_golden
from lame_runtime.opening import BackendName, graphs_for


@dataclass(frozen=True)
class Verified:
    """One row found on this device and the certificate's row it repeats, if it has one."""

    today: Result
    certified: Result | None
    backend: str = ""
    file: Path | None = None
    """Of this device's certificate of TensorRT plans."""
    note: str = ""
    """What was not run."""


def read_certificate(folder: Path) -> dict[str, Any]:
    """Reads `parity.json`; raises `BundleError`."""
    try:
        certificate = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
        if not {"passed", "environment"} <= set(certificate):
            raise KeyError("passed, environment")
        certificate["rows"] = [result_from_json(row) for row in certificate["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder / 'parity.json'}: cannot be read ({error}); copy or export the bundle again") from None
    return certificate  # type: ignore[no-any-return]


def verify(
    folder: Path,
    graphs: list[str] | None = None,
    backend: BackendName = "auto",
    threads: int | None = None,
    *,
    trust_plans: bool = False,
    engines: Path | None = None,
) -> list[Verified]:
    """Checks every file's hash, then runs the golden vectors through the contract and each graph.

    Args:
        folder: the bundle.
        graphs: which graphs; None takes all the bundle has, or, on TensorRT, all that plans were built of.
        backend: as in `Encoder.load`.
        threads: as in `Encoder.load`.
        trust_plans: as in `Encoder.load`.
        engines: as in `Encoder.load`.

    On TensorRT the outcome is written beside the plans too; see `device_check`. A graph that does not run is a failed row,
    with the reason; the others are checked all the same.

    Raises:
        BundleError: a file is missing or changed.
        BackendError: no graph runs; the message is the first one's.
    """
    bundle = Bundle.open(folder)
    bundle.check_all()
    certificate = read_certificate(folder)
    golden = read_golden(folder)
    certified = {_key(row): row for row in certificate["rows"]}
    verified: list[Verified] = []
    failed: list[tuple[str, BackendError]] = []
    for graph in graphs or graphs_for(bundle, backend, engines):
        try:
            with Encoder.load(
                folder,
                backend=backend,
                graph=graph,
                threads=threads,
                check_hashes=False,
                trust_plans=trust_plans,
                prove_plans=False,
                engines=engines,
            ) as encoder:
                rows = [Verified(row, None, encoder.backend.name) for row in ([] if verified else contract_rows(encoder.preparer, golden))]
                verified += rows + _rows(encoder, bundle, golden)
        except BackendError as error:
            failed.append((graph, error))
    if failed and not verified:
        raise failed[0][1]
    verified += [Verified(_not_run(graph, error), None) for graph, error in failed]
    return [replace(each, certified=certified.get(_key(each.today))) for each in verified]


def _rows(encoder: Encoder, bundle: Bundle, golden: Golden) -> list[Verified]:
    """Of one graph."""
    if encoder.build is None:
        return [Verified(row, None, encoder.backend.name) for row in graph_rows(encoder, encoder.graph, golden)]
    proof = prove(encoder, bundle, encoder.build)
    note = f"{encoder.graph}: {proof.describe()}"
    return [Verified(row, None, encoder.backend.name, proof.file, note) for row in proof.rows]


def _not_run(graph: str, error: BackendError) -> Result:
    gate = GRAPH_VS_PYTORCH[graph]
    return judge("graph vs PyTorch", graph, "mixed", 0, gate, dict.fromkeys(gate, math.nan), str(error))


def report(verified: list[Verified]) -> dict[str, Any]:
    """The device's own certificate."""
    return {
        "passed": all(each.today.passed is not False for each in verified),
        "rows": [each.today.to_json() for each in verified],
        "backend": ", ".join(dict.fromkeys(each.backend for each in verified if each.backend)),
        "certificates": _said(str(each.file) for each in verified if each.file is not None),
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def table(verified: list[Verified]) -> str:
    """Rows with the certificate's figures beside today's, as aligned text; then what was not run, and a device's certificate."""
    lines = [("comparison", "graph", "modality", "inputs", "certificate", "today", "")]
    for each in verified:
        row = each.today
        mark = {True: "ok", False: "FAILED", None: ""}[row.passed]
        before = "—" if each.certified is None else _figures(each.certified)
        lines.append((row.comparison, row.graph, row.modality, str(row.inputs), before, row.describe(), mark))
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    rows = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = _said(each.note for each in verified) + _said(f"this device's certificate: {each.file}" for each in verified if each.file)
    return "\n".join(rows + notes)


def _said(texts: Iterable[str]) -> list[str]:
    """Each once, in order of first occurrence."""
    return [text for text in dict.fromkeys(texts) if text]


def _figures(row: Result) -> str:
    return ", ".join(f"{value:.6g}" for value in row.figure.values())


def _key(row: Result) -> tuple[str, str, str]:
    """Rows that ask the same; a certificate judges FP16 and INT8 on an emulation, a device on the real thing."""
    return row.comparison.removesuffix(", emulated"), row.graph, row.modality
