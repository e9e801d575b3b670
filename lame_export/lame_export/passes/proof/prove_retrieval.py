"""Compares every graph with PyTorch on evaluation rows: hit@1 and nearest documents."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.encoder import Encoder
from lame_training.evaluation.retrieval import RankedPool, Vectors, embed_rows, read_rows, tasks
from lame_training.model.from_disk.checkpoint_checks import is_trained

from lame_export.parity.judged import judged_encoder, note_of
from lame_export.parity.retrieval_rows import retrieval_rows, vector_rows
from lame_export.passes.base import Pass, graph_files
from lame_export.state import ExportState

BATCH_SIZE = 64
BUILTIN_NOTE = "built-in data"
"""Note of rows that were measured on the built-in data."""


class ProveRetrieval(Pass):
    """Adds the retrieval rows, gated for INT8 graphs of a trained model on data of its user."""

    name = "retrieval"
    reads = ("reference", "memory", "golden")
    writes = ("rows",)

    def input_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of every graph."""
        return graph_files(state, state.graphs)

    def run(self, state: ExportState) -> None:
        """Embeds the evaluation rows; raises `ExportError` if a gate is not met."""
        rows = {task: read_rows(state.data, task) for task in tasks(state.data)}
        # PyTorch's vectors are the same for every graph, so they are computed once
        reference = _embed(state.reference, rows)
        data_note = BUILTIN_NOTE if state.builtin_data else ""
        state.add(vector_rows(reference, rows, state.golden, data_note))
        # The neighbors of an untrained model are random, so a gate on them would be meaningless.
        # No model was trained for the built-in rows: drawn pictures and a few repeated sentences
        # are nearly alike, and who comes first among them says nothing about a user's search.
        gated = is_trained(state.checkpoint) and not state.builtin_data
        for graph in state.graphs:
            with judged_encoder(state, graph) as encoder:
                vectors = _embed(encoder, rows)
            # "emulated" comes last, where `Result.key` expects it
            note = ", ".join(part for part in (data_note, note_of(graph)) if part)
            state.add(retrieval_rows(graph, reference, vectors, rows, gated=gated, note=note))


def _embed(encoder: Encoder, rows: dict[str, list[RankedPool]]) -> Vectors:
    return embed_rows(
        lambda items, role: encoder.encode(items, role=role, batch_size=BATCH_SIZE), rows
    )
