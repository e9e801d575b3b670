"""Compares a bundle with the published pipeline that its model was imported from."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.bundle.certificate import Result
from lame_runtime.bundle.golden import Golden
from lame_runtime.contract.media.images import open_image
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.contract.rules import ImageRules
from lame_runtime.encoder import Encoder
from lame_runtime.errors import first_line, shown
from lame_runtime.parity import gates
from lame_runtime.parity.compare import BATCH_SIZE, embed_golden, similarity
from lame_runtime.parity.gates import judge

from lame_export.parity.judged import judged_encoder
from lame_export.passes.base import Pass, graph_files
from lame_export.state import ExportState

COMPARISON = "published pipeline vs bundle"
FP32_GRAPHS = ("fp32", "fp32-cpu")


class ProvePublished(Pass):
    """Adds the rows "published pipeline vs bundle", if the exporting machine can run both."""

    name = "published"
    reads = ("reference", "memory", "golden")
    writes = ("rows",)

    def applies(self, state: ExportState) -> bool:
        """Returns whether there is a pipeline to compare with, a graph in FP32, and memory."""
        if state.published is None or not any(graph in FP32_GRAPHS for graph in state.graphs):
            return False
        weights = sum(value.numel() for value in state.model.parameters())
        has_library = all(
            importlib.util.find_spec(name) for name in ("sentence_transformers", "torchvision")
        )
        # Sentence Transformers holds all weights in FP32
        return has_library and 4 * weights < state.memory.spare

    def input_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the graph that is compared."""
        return graph_files(state, [_graph(state)])

    def run(self, state: ExportState) -> None:
        """Embeds golden inputs with both; raises `ExportError` if a gate is not met."""
        graph = _graph(state)
        if state.published is not None:
            with judged_encoder(state, graph) as encoder:
                state.add(published_rows(state.published, encoder, graph, state.golden))


def _graph(state: ExportState) -> str:
    """Returns the first graph in FP32."""
    return next(graph for graph in state.graphs if graph in FP32_GRAPHS)


def published_rows(folder: Path, encoder: Encoder, graph: str, golden: Golden) -> list[Result]:
    """Compares a graph with `SentenceTransformer(folder).encode` on the golden inputs.

    Pictures are resized with PIL on both sides. Sentence Transformers resizes them with torchvision
    by default, which rounds differently; the scripts that published models were trained with use
    PIL. Videos are left out, because it samples frames from lists of frames.

    Args:
        folder: the published folder.
        encoder: runs the graph.
        graph: its name.
        golden: the inputs.

    Returns:
        One row per modality without videos; or one that says why there is none.
    """
    try:
        theirs = _Pipeline(folder, encoder.preparer.contract.images)
    except Exception as error:  # four libraries load it, each with its own exceptions
        reason = f"Sentence Transformers cannot load it ({shown(first_line(error))})"
        return [judge(COMPARISON, graph, "all", 0, None, {}, reason)]
    rows = []
    for modality in golden.modalities:
        indices = golden.of(modality)
        if any(isinstance(part, Video) for part in golden.inputs[indices[0]].item.content):
            continue
        entries = [golden.inputs[index] for index in indices]
        expected = np.stack([theirs.encode(entry.item, entry.role) for entry in entries])
        vectors = embed_golden(encoder, golden, indices, BATCH_SIZE)
        # the length of their vectors depends on their last module
        figure = {"min_cosine": similarity(vectors, expected)["min_cosine"]}
        gate = {"min_cosine": gates.GRAPH_VS_PYTORCH[graph]["min_cosine"]}
        rows.append(judge(COMPARISON, graph, modality, len(indices), gate, figure))
    return rows


class _Pipeline:
    """Sentence Transformers with pictures resized by PIL, in FP32 on the CPU."""

    def __init__(self, folder: Path, rules: ImageRules) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        self._rules = rules
        self._model: Any = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
        processor: Any = self._model[0].processor
        processor.image_processor = Qwen2VLImageProcessorPil(
            patch_size=rules.patch_size,
            temporal_patch_size=rules.temporal_patch_size,
            merge_size=rules.merge_size,
            size={"shortest_edge": rules.min_pixels, "longest_edge": rules.max_pixels},
            image_mean=list(rules.mean),
            image_std=list(rules.std),
        )

    def encode(self, item: Input, role: str) -> Any:
        """Returns the vector of one input: float32 (P,).

        Args:
            item: a golden input, whose parts stand in `content`.
            role: "query" or "document"; its prompt is looked up by Sentence Transformers.
        """
        content = [self._part(part) for part in item.content]
        inputs = [[{"role": "user", "content": content}]]
        if item.instruction is not None:
            return self._model.encode(inputs, prompt=item.instruction)[0]
        encode = self._model.encode_query if role == "query" else self._model.encode_document
        return encode(inputs)[0]

    def _part(self, part: Any) -> dict[str, Any]:
        """Returns a part as a chat message has it."""
        if isinstance(part, Picture):
            return {"type": "image", "image": open_image(part.source, self._rules)}
        return {"type": "text", "text": part}
