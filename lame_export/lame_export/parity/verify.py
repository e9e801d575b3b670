"""Repeats the certificate of a finished bundle against its checkpoint."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.certificate import Result
from lame_runtime.contract import Contract
from lame_runtime.errors import ExportError
from lame_runtime.parity import gates
from lame_runtime.parity.compare import BATCH_SIZE, embed_golden, similarity
from lame_runtime.parity.gates import judge
from lame_training.arguments import folder_path

from lame_export.lint.foreign_graphs import check_graphs, translated
from lame_export.passes.proof.lint_graphs import LintGraphs
from lame_export.passes.proof.prove_vectors import ProveVectors
from lame_export.passes.source.load_checkpoint import (
    SHARED_FILES,
    read_model,
    read_shared,
    shared_content,
)
from lame_export.passes.source.prove_contract import ProveContract
from lame_export.state import ExportOptions, ExportState

PASSES = (ProveContract(), LintGraphs(), ProveVectors())
"""The passes that need no data set, without the TensorRT-RTX builds, which take minutes.
"""


def verify(
    bundle: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    *,
    memory: float | None = None,
    form: str | None = None,
) -> list[Result]:
    """Measures the rows of a certificate that need no data set, except the TensorRT-RTX builds.

    Args:
        bundle: a finished bundle; every hash is checked first.
        checkpoint: the checkpoint or published embedder that it was exported from.
        memory: memory that the verification may take, in GiB; None takes what the machine has
            available.
        form: the form of a published embedder whose folder does not describe itself.

    Returns:
        All rows, including those whose gate is not met.

    Raises:
        BundleError: the bundle or the checkpoint is damaged, or is another kind of folder.
        ExportError: the checkpoint's vectors have another length than the bundle's, or the
            verification does not fit in memory.
        UsageError: `memory` is not a number of GiB, or there is no such form.
    """
    bundle, checkpoint = folder_path("bundle", bundle), folder_path("checkpoint", checkpoint)
    opened = Bundle.open(bundle)
    # figures measured on damaged files would be misleading
    opened.check_all()
    check_graphs(opened)
    with as_checkpoint(checkpoint, opened, form) as model:
        return _rows(bundle, opened, checkpoint, model, memory)


@contextmanager
def as_checkpoint(folder: Path, bundle: Bundle, form: str | None = None) -> Iterator[Path]:
    """Yields a checkpoint: the folder itself, or what a published embedder is imported to.

    Args:
        folder: a checkpoint or a published embedder.
        bundle: its contract has the limits that the embedder was imported with.
        form: the form of an embedder whose folder does not describe itself.

    Raises:
        BundleError: the folder is neither, or cannot be read.
    """
    # deferred: PyTorch and transformers take seconds to import
    from lame_training.published.folder_kind import folder_kind
    from lame_training.published.import_embedder import ImportLimits, import_embedder

    if folder_kind(folder, form) == "checkpoint":
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="lame-verify-") as scratch:
        contract = Contract.from_json(bundle.read("contract.json"), f"{bundle.folder}")
        imported = Path(scratch) / "checkpoint"
        limits = ImportLimits(contract.tokens.max_length, contract.images.max_pixels)
        import_embedder(folder, imported, limits, form)
        yield imported


def _rows(
    bundle: Path, opened: Bundle, given: Path, checkpoint: Path, memory: float | None
) -> list[Result]:
    """Measures the rows of a bundle and the checkpoint that `given` is or was imported to."""
    options = ExportOptions(graphs=tuple(opened.graphs), memory=memory)
    # no pass below reads the data set, so the bundle's path stands in for its path
    state = ExportState(checkpoint, bundle, bundle, options, stop_on_failure=False)
    read_model(state)
    state.golden = opened.golden()
    if state.reference.dim != state.golden.embeddings.shape[1]:
        raise ExportError(f"{bundle}: was not exported from {given} (embeddings of another length)")
    state.add([_shared_files_row(bundle, checkpoint), _golden_row(state)])
    for step in PASSES:
        # without the runner: failed rows are collected, and no file is written
        step.requires(state)
        with translated(bundle):
            step.run(state)
    return state.rows


def _shared_files_row(bundle: Path, checkpoint: Path) -> Result:
    # byte for byte, because a changed file need not change any golden vector
    changed = sum(
        read_shared(bundle / name) != shared_content(checkpoint / name) for name in SHARED_FILES
    )
    comparison, figure = "contract and tokenizer vs checkpoint", {"mismatches": changed}
    return judge(comparison, "", "files", len(SHARED_FILES), gates.CONTRACT, figure)


def _golden_row(state: ExportState) -> Result:
    """Compares the golden embeddings with those that the checkpoint gives now."""
    golden = state.golden
    indices = list(range(len(golden.inputs)))
    vectors = embed_golden(state.reference, golden, indices, BATCH_SIZE)
    figure = {"max_abs": similarity(vectors, golden.embeddings)["max_abs"]}
    comparison, gate = "golden embeddings vs checkpoint", gates.GOLDEN_VS_PYTORCH
    return judge(comparison, "", "all", len(indices), gate, figure)
