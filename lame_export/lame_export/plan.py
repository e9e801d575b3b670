"""The exporter on one screen: the passes from a checkpoint to a proven bundle, in order.

A pass says which facts it requires and which hold after it; a failure names the pass and those that ran before.
Everything is written into a temporary folder beside the target and renamed at the end, so a failed gate, an
error or a kill leaves no bundle.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lame_runtime.errors import InputError, LameError
from lame_runtime.gates import Result

from lame_export import steps
from lame_export.choice import STRENGTHS, Trial, Way
from lame_export.errors import ExportError
from lame_export.golden_set import CALIBRATION, PER_MODALITY

if TYPE_CHECKING:
    import onnx_ir as ir
    from lame_runtime.encoder import Encoder
    from lame_runtime.golden import Golden
    from lame_training.model import LaMEModel

    from lame_export.quantise import Quantiser

GRAPHS = ("fp32", "fp16", "int8", "int8-cpu", "w8-cpu", "w4-cpu")
USUAL = GRAPHS[:4]
"""What a bundle holds where nothing else is asked for."""


@dataclass
class Export:
    """What the passes work on."""

    checkpoint: Path
    data: Path
    graphs: tuple[str, ...]
    folder: Path
    """The bundle under construction."""
    per_modality: int = PER_MODALITY
    """Golden inputs of each modality."""
    calibration: int = CALIBRATION
    model: LaMEModel = field(init=False)
    reference: Encoder = field(init=False)
    """PyTorch behind the runtime's seam."""
    golden: Golden = field(init=False)
    traced: dict[str, ir.Model] = field(default_factory=dict)
    """The FP32 graphs by part, their weights still in the checkpoint."""
    quantiser: Quantiser = field(init=False)
    """What calibration inputs reached in them, and what quantises them by it."""
    strengths: tuple[float, ...] = STRENGTHS
    """Of smoothing, to try; a single one is taken as it is."""
    ways: dict[str, Way] = field(default_factory=dict)
    """How each INT8 graph is quantised."""
    tried: list[Trial] = field(default_factory=list)
    islands: list[dict[str, object]] = field(default_factory=list)
    rows: list[Result] = field(default_factory=list)
    facts: set[str] = field(default_factory=set)

    def path(self, part: str, graph: str) -> Path:
        """Where a graph of the bundle lies."""
        return self.folder / "graphs" / f"{part}.{graph}.onnx"

    def add(self, rows: list[Result]) -> None:
        """Records rows; raises `ExportError` naming the first whose gate is not met."""
        self.rows += rows
        for row in rows:
            if row.passed is False:
                raise ExportError(f"gate not met: {row.comparison}, {' '.join((row.graph, row.modality)).strip()}: {row.describe()}")


@dataclass(frozen=True)
class Pass:
    """One step of the plan."""

    name: str
    requires: frozenset[str]
    ensures: frozenset[str]
    run: Callable[[Export], None]


def _pass(name: str, requires: str, ensures: str, run: Callable[[Export], None]) -> Pass:
    return Pass(name, frozenset(requires.split()), frozenset(ensures.split()), run)


PLAN = (
    _pass("load", "", "model", steps.load),
    _pass("golden", "model", "golden", steps.golden),
    _pass("trace", "model", "fp32", steps.trace),
    _pass("contract", "model golden", "contract-proved", steps.prove_contract),
    _pass("scan", "fp32", "ranges", steps.scan),
    _pass("fp16", "fp32 ranges", "fp16", steps.fp16),
    _pass("choose", "golden fp32 ranges", "ways", steps.choose),
    _pass("int8", "ways", "int8", steps.int8),
    _pass("int8-cpu", "ways", "int8-cpu", steps.int8_cpu),
    _pass("weight-only", "fp32", "weight-only", steps.weight_only),
    _pass("lint", "fp32 fp16 int8 int8-cpu weight-only", "linted", steps.lint),
    _pass("engine", "linted", "engines", steps.engine),
    _pass("parity", "golden fp32 fp16 int8 int8-cpu weight-only", "proved", steps.prove_graphs),
    _pass("retrieval", "fp32 fp16 int8 int8-cpu weight-only", "retrieval-proved", steps.prove_retrieval),
    _pass("write", "contract-proved linted engines proved retrieval-proved", "bundle", steps.write),
)


def export(
    checkpoint: Path,
    bundle: Path,
    data: Path,
    graphs: tuple[str, ...] = USUAL,
    *,
    per_modality: int = PER_MODALITY,
    calibration: int = CALIBRATION,
    strengths: tuple[float, ...] = STRENGTHS,
    on_pass: Callable[[str], None] = lambda name: None,
    plan: tuple[Pass, ...] = PLAN,
) -> list[Result]:
    """Runs the plan and leaves a bundle.

    Args:
        checkpoint: what `lame-train` wrote.
        bundle: the folder to make; must not exist.
        data: an MMEB-style data set for calibration, golden vectors and the retrieval rows.
        graphs: which graphs the bundle holds.
        per_modality: golden inputs of each modality; the certificate says how many there were.
        calibration: calibration inputs of each modality.
        strengths: of the smoothing before INT8, from 0 to 1, to try; a single one is taken as it is.
        on_pass: called with the name of each pass before it runs.
        plan: the passes.

    Returns:
        The certificate's rows.

    Raises:
        ExportError: a gate was not met or a pass failed; no bundle is left.
        InputError, BundleError: unusable arguments or data; likewise.
    """
    if bundle.exists():
        raise InputError(f"{bundle}: already exists; remove it or choose another folder")
    if unknown := set(graphs) - set(GRAPHS):
        raise InputError(f"unknown graph {sorted(unknown)[0]!r}: there are {', '.join(GRAPHS)}")
    try:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.", dir=bundle.parent))
    except OSError as error:
        raise InputError(f"{bundle}: cannot be made ({error.strerror}); choose another folder") from None
    try:
        state = Export(checkpoint, data, tuple(graph for graph in GRAPHS if graph in graphs), workplace / "bundle")
        state.per_modality, state.calibration, state.strengths = per_modality, calibration, strengths
        (state.folder / "graphs").mkdir(parents=True)
        run_plan(state, plan, on_pass)
        state.folder.rename(bundle)
        return state.rows
    except OSError as error:
        named = error.filename or bundle
        raise InputError(f"{named}: {error.strerror or error}; make it accessible, free some space or choose another folder") from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def run_plan(state: Export, plan: tuple[Pass, ...], on_pass: Callable[[str], None]) -> None:
    """Runs the passes in order; raises `ExportError` naming the pass that failed and those before it."""
    ran: list[str] = []
    for each in plan:
        if missing := each.requires - state.facts:
            raise ExportError(
                f"pass {each.name} requires {sorted(missing)}, which no pass before it ensures (ran: {', '.join(ran) or 'none'})"
            )
        on_pass(each.name)
        try:
            each.run(state)
        except LameError as error:
            raise type(error)(f"pass {each.name}: {error} (passed before: {', '.join(ran) or 'none'})") from error
        state.facts |= each.ensures
        ran.append(each.name)
