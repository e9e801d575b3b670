"""Chooses golden inputs from the data and records PyTorch's embeddings of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lame_runtime.bundle.golden import read_golden

from lame_export.parity.golden_set import write_golden
from lame_export.passes.base import Pass
from lame_export.state import ExportState


class ChooseGolden(Pass):
    """Writes `golden/` and reads it back, so that later passes use the files that ship."""

    name = "golden"
    reads = ("reference",)
    writes = ("golden",)

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the two files that every golden set has."""
        return [state.folder / "golden" / name for name in ("inputs.jsonl", "embeddings.npy")]

    def may_write(self, state: ExportState) -> Sequence[str]:  # noqa: ARG002 - the same for every state
        """Returns a pattern that includes the pictures, whose number depends on the data."""
        return ["golden/*"]

    def run(self, state: ExportState) -> None:
        """Chooses and embeds golden inputs, writes them, and sets `golden` from the files."""
        per_modality = state.options.per_modality
        write_golden(state.data, state.reference, state.folder, per_modality)
        # PNG files and JSON lines are what a device reads, so all comparisons start from them
        state.golden = read_golden(state.folder)
