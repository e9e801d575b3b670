"""Imports a published embedder, so that the other passes see a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from lame_runtime.errors import ExportError

from lame_export.passes.base import Pass
from lame_export.state import ExportState


class ImportPublished(Pass):
    """Writes a published embedder as a checkpoint, to the export's scratch folder."""

    name = "import"
    writes = ("checkpoint", "published")

    def applies(self, state: ExportState) -> bool:
        """Returns whether the folder is a published embedder, and no checkpoint."""
        # deferred: PyTorch and transformers take seconds to import
        from lame_training.published.folder_kind import folder_kind

        return folder_kind(state.checkpoint, state.options.form) != "checkpoint"

    def may_write(self, state: ExportState) -> Sequence[str]:  # noqa: ARG002 - the same for every state
        """Returns no pattern: the checkpoint is not part of the bundle."""
        return ()

    def run(self, state: ExportState) -> None:
        """Writes the checkpoint; the folder's own path becomes `published`."""
        from lame_training.published.import_embedder import ImportLimits, import_embedder

        if state.scratch is None:
            raise ExportError("has no scratch folder to write a checkpoint to")
        options = state.options
        limits = ImportLimits(options.max_length, options.max_pixels)
        state.published, checkpoint = state.checkpoint, state.scratch / "checkpoint"
        import_embedder(state.published, checkpoint, limits, options.form)
        state.checkpoint = checkpoint
