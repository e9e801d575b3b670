"""Writes the built-in data set if the export was given no data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lame_export.parity.builtin.builtin_data import TASK, write_builtin_data
from lame_export.passes.base import Pass
from lame_export.state import ExportState


class MakeData(Pass):
    """Writes the built-in data set to the export's scratch folder."""

    name = "data"
    reads = ("reference",)

    def applies(self, state: ExportState) -> bool:
        """Returns whether there is no data of the user's own."""
        return state.builtin_data

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the rows."""
        return [state.data / f"eval/{TASK}.jsonl", state.data / f"train/{TASK}.parquet"]

    def may_write(self, state: ExportState) -> Sequence[str]:  # noqa: ARG002 - the same for every state
        """Returns no pattern: the data set is not part of the bundle."""
        return ()

    def run(self, state: ExportState) -> None:
        """Writes as many inputs as golden vectors and calibration need."""
        options = state.options
        # after the model is loaded, because its contract says which inputs it takes
        write_builtin_data(
            state.data, state.reference.preparer, options.per_modality, options.calibration
        )
