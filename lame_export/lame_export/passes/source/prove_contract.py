"""Compares the contract with transformers' processor, and the traced forward with its model."""

from __future__ import annotations

from lame_runtime.parity.compare import contract_rows

from lame_export.passes.base import Pass
from lame_export.state import ExportState


class ProveContract(Pass):
    """Adds the rows about preprocessing and the traced forward.

    Runs early, because every later graph is derived from the traced forward.
    """

    name = "contract"
    reads = ("model", "reference", "golden")
    writes = ("rows",)

    def run(self, state: ExportState) -> None:
        """Compares both; raises `ExportError` if a gate is not met."""
        # deferred: transformers takes seconds to import
        from lame_export.parity.source_rows import processor_rows, traced_rows

        preparer = state.reference.preparer
        tokenizer = state.checkpoint / "tokenizer.json"
        # preprocessing first: if it differs, the vectors that follow differ as well
        state.add(processor_rows(state.model, preparer, tokenizer, state.golden))
        state.add(contract_rows(preparer, state.golden))
        state.add(traced_rows(state.model, preparer, state.golden))
