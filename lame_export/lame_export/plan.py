"""Lists the passes from a checkpoint to a verified bundle, in order, and runs them.

Each pass is checked before and after it runs; a failure names the pass and those that ran before.
Files are written to a temporary folder beside the target, which is renamed at the end, so that a
failed gate, an error or a kill leaves no bundle.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lame_runtime.bundle.certificate import Result
from lame_runtime.errors import StorageError
from lame_runtime.files.atomic import rename_new, require_new
from lame_training.arguments import folder_path, texts
from lame_training.folder_lock import reserved_folder

from lame_export.passes.base import OnPass, Pass, run_passes
from lame_export.passes.graphs.choose_int8 import ChooseInt8
from lame_export.passes.graphs.fuse_fp32 import FuseFp32
from lame_export.passes.graphs.type_half import TypeHalf
from lame_export.passes.graphs.write_int8 import WriteInt8
from lame_export.passes.graphs.write_int8_cpu import WriteInt8Cpu
from lame_export.passes.graphs.write_weights import WriteWeights
from lame_export.passes.proof.build_engines import BuildEngines
from lame_export.passes.proof.lint_graphs import LintGraphs
from lame_export.passes.proof.prove_published import ProvePublished
from lame_export.passes.proof.prove_retrieval import ProveRetrieval
from lame_export.passes.proof.prove_vectors import ProveVectors
from lame_export.passes.proof.write_bundle import WriteBundle
from lame_export.passes.source.choose_golden import ChooseGolden
from lame_export.passes.source.import_published import ImportPublished
from lame_export.passes.source.load_checkpoint import LoadCheckpoint
from lame_export.passes.source.make_data import MakeData
from lame_export.passes.source.prove_contract import ProveContract
from lame_export.passes.source.scan_ranges import ScanRanges
from lame_export.passes.source.trace_graphs import TraceGraphs
from lame_export.state import DEFAULT_GRAPHS, ExportKeywords, ExportOptions, ExportState

if TYPE_CHECKING:
    from typing_extensions import Unpack

# A pass depends on the results of earlier ones, and cheap checks come before expensive passes.
PLAN: tuple[Pass, ...] = (
    ImportPublished(),
    LoadCheckpoint(),
    MakeData(),
    ChooseGolden(),
    TraceGraphs(),
    FuseFp32(),
    ProveContract(),
    ScanRanges(),
    TypeHalf(),
    ChooseInt8(),
    WriteInt8(),
    WriteInt8Cpu(),
    WriteWeights(),
    LintGraphs(),
    BuildEngines(),
    ProveVectors(),
    ProvePublished(),
    ProveRetrieval(),
    WriteBundle(),
)


def export(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    graphs: Iterable[str] = DEFAULT_GRAPHS,
    *,
    on_pass: OnPass | None = None,
    **options: Unpack[ExportKeywords],
) -> list[Result]:
    """Exports a checkpoint to a bundle with a certificate of parity with PyTorch.

    Args:
        checkpoint: the folder that `lame-train` wrote, or the Sentence Transformers folder of a
            published embedder.
        bundle: the folder to create; it must not exist.
        data: an MMEB-style data set for calibration, golden vectors and the retrieval rows; None
            takes a built-in set of texts in many scripts and of drawn pictures, which is not kept.
        graphs: the graphs of the bundle, some of "fp32", "fp32-cpu", "fp16", "int8", "int8-cpu",
            "w8-cpu" and "w4-cpu".
        on_pass: called with the name of each pass and None before it runs, and with the name and
            what it took after it has run.
        options: fields of `ExportOptions`: `per_modality`, `calibration`, `strengths`, `memory`,
            `max_length` and `max_pixels`.

    Returns:
        The rows of the certificate.

    Raises:
        ExportError: a gate is not met, a pass failed, or the export does not fit in memory; no
            bundle is left.
        UsageError: an argument is out of range; no bundle is left.
        BundleError, InputError, StorageError: the checkpoint, the data or the disk cannot be used.

    Example:
        >>> rows = export(Path("checkpoint"), Path("bundle"), Path("data"), ["fp32", "int8-cpu"])
        >>> all(row.passed is not False for row in rows)
        True
    """
    parsed = ExportOptions(graphs=tuple(texts("graphs", graphs)), **options)
    request = ExportState(
        folder_path("checkpoint", checkpoint),
        # `run_export` puts the built-in set into its scratch folder
        Path() if data is None else folder_path("data", data),
        folder_path("bundle", bundle),
        parsed,
        builtin_data=data is None,
    )
    return run_export(request, PLAN, on_pass)


def run_export(
    request: ExportState,
    plan: Sequence[Pass],
    on_pass: OnPass | None = None,
) -> list[Result]:
    """Runs a plan in a temporary folder that becomes `request.folder`; raises as `export` does."""
    require_new(request.folder)
    with reserved_folder(request.folder, "export", "bundle"):
        # again: another export may have ended since
        require_new(request.folder)
        return _run_reserved(request, plan, on_pass)


def _run_reserved(
    request: ExportState,
    plan: Sequence[Pass],
    on_pass: OnPass | None,
) -> list[Result]:
    """Runs a plan for a bundle that no other export writes."""
    bundle = request.folder
    try:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        # beside the target, because a rename is atomic only within one file system
        workplace = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.", dir=bundle.parent))
    except OSError as error:
        raise StorageError(
            f"{bundle}: cannot be made ({error.strerror}); choose another folder"
        ) from None
    try:
        folder = workplace / "bundle"
        (folder / "graphs").mkdir(parents=True)
        # not the system's folder, which may be a small disk or memory
        scratch = workplace / "scratch"
        scratch.mkdir()
        state = ExportState(
            request.checkpoint,
            scratch / "data" if request.builtin_data else request.data,
            folder,
            request.options,
            scratch,
            builtin_data=request.builtin_data,
        )
        run_passes(state, plan, on_pass)
        # renamed last, so that a bundle is complete as soon as it exists
        rename_new(folder, bundle)
        return state.rows
    except OSError as error:
        name = error.filename or bundle
        raise StorageError(
            f"{name}: {error.strerror or error}; "
            "make it accessible, free some space or choose another folder"
        ) from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
