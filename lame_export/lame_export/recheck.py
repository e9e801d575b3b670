"""`lame-export verify`: a bundle's certificate anew, against the checkpoint it claims to come from."""

from __future__ import annotations

from pathlib import Path

from lame_runtime import gates
from lame_runtime.bundle import Bundle
from lame_runtime.compare import embed_golden, similarity
from lame_runtime.gates import Result, judge
from lame_runtime.golden import read_golden

from lame_export import steps
from lame_export.errors import ExportError
from lame_export.plan import Export


class Recheck(Export):
    """Passes on a finished bundle: rows are collected, none stops the work."""

    def add(self, rows: list[Result]) -> None:
        """Records rows."""
        self.rows += rows


def recheck(bundle: Path, checkpoint: Path) -> list[Result]:
    """The certificate's rows that need no data set, but for the TensorRT-RTX builds.

    Args:
        bundle: a finished bundle; every hash is checked first.
        checkpoint: what it was exported from.

    Raises:
        BundleError: either folder is not what it should be.
    """
    opened = Bundle.open(bundle)
    opened.check_all()
    state = Recheck(checkpoint, bundle, tuple(opened.graphs), bundle)
    steps.read_checkpoint(state)
    state.golden = read_golden(bundle)
    if state.reference.dim != state.golden.embeddings.shape[1]:
        raise ExportError(f"{bundle}: was not exported from {checkpoint} (embeddings of another length)")
    changed = sum((bundle / name).read_bytes() != (checkpoint / name).read_bytes() for name in steps.SHARED)
    state.add([judge("contract and tokenizer vs checkpoint", "", "files", 2, gates.CONTRACT, {"mismatches": changed})])
    everything = list(range(len(state.golden.inputs)))
    found = similarity(embed_golden(state.reference, state.golden, everything, 32), state.golden.embeddings)
    figure = {"max_abs": found["max_abs"]}
    state.add([judge("golden embeddings vs checkpoint", "", "all", len(everything), gates.GOLDEN_VS_PYTORCH, figure)])
    steps.prove_contract(state)
    steps.lint(state)
    steps.prove_graphs(state)
    return state.rows
