"""Compares a bundle with the published pipeline that its model was imported from."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.bundle.certificate import Result
from lame_runtime.bundle.golden import Golden, GoldenInput
from lame_runtime.contract.batch import Floats
from lame_runtime.contract.media.images import open_image
from lame_runtime.contract.prompts import Input, Picture
from lame_runtime.contract.rules import ImageRules
from lame_runtime.encoder import Encoder
from lame_runtime.errors import first_line, shown
from lame_runtime.parity import gates
from lame_runtime.parity.compare import BATCH_SIZE, embed_golden, similarity
from lame_runtime.parity.gates import judge

from lame_export.parity.judged import judged_encoder
from lame_export.parity.source_rows import picture_processor
from lame_export.passes.base import Pass, graph_files
from lame_export.state import ExportState

COMPARISON = "published pipeline vs bundle"
THEIR_BATCH = 8
"""Inputs of a batch; its attention may hold the scores of all of them."""
FP32_GRAPHS = ("fp32", "fp32-cpu")


class ProvePublished(Pass):
    """Adds the rows "published pipeline vs bundle", if the exporting machine can run both."""

    name = "published"
    reads = ("reference", "memory", "golden")
    writes = ("rows",)

    def applies(self, state: ExportState) -> bool:
        """Returns whether there are a pipeline, its libraries, and a graph in FP32."""
        return (
            state.published is not None
            # a folder that does not describe itself has a script, which is never run
            and state.options.form is None
            and any(graph in FP32_GRAPHS for graph in state.graphs)
            and all(map(importlib.util.find_spec, ("sentence_transformers", "torchvision")))
        )

    def input_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the graph that is compared."""
        return graph_files(state, [_graph(state)])

    def run(self, state: ExportState) -> None:
        """Embeds golden inputs with both; raises `ExportError` if a gate is not met."""
        graph = _graph(state)
        # Sentence Transformers holds all weights in FP32
        weights = 4 * sum(value.numel() for value in state.model.parameters())
        if state.published is None or weights > state.memory.spare:
            needed = f"needs {weights / 1e9:.1f} GB more than the export"
            state.add([_not_compared(graph, needed)])
            return
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
        return [_not_compared(graph, f"cannot load the folder ({shown(first_line(error))})")]
    rows = []
    for modality in golden.modalities:
        indices = golden.of(modality)
        if "video" in modality:
            continue
        expected = theirs.encode([golden.inputs[index] for index in indices])
        vectors = embed_golden(encoder, golden, indices, BATCH_SIZE)
        # the length of their vectors depends on their last module
        figure = {"min_cosine": similarity(vectors, expected)["min_cosine"]}
        gate = {"min_cosine": gates.GRAPH_VS_PYTORCH[graph]["min_cosine"]}
        rows.append(judge(COMPARISON, graph, modality, len(indices), gate, figure))
    return rows


def _not_compared(graph: str, reason: str) -> Result:
    """Returns a row without a gate that says why there are no figures."""
    return judge(COMPARISON, graph, "all", 0, None, {}, f"Sentence Transformers {reason}")


class _Pipeline:
    """Sentence Transformers with pictures resized by PIL, in FP32 on the CPU."""

    def __init__(self, folder: Path, rules: ImageRules) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self._rules = rules
        self._model: Any = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
        # with a Router, backbones are modules of its routes, and may be equal copies
        backbones: list[Any] = [
            part for part in self._model.modules() if hasattr(part, "processor")
        ]
        for backbone in backbones:
            backbone.processor.image_processor = picture_processor(rules)

    def encode(self, entries: Sequence[GoldenInput]) -> Floats:
        """Returns the vectors of golden inputs: float32 (n, P)."""
        # `encode` takes one prompt for all inputs, so there is one call per prompt
        places: dict[tuple[str, str | None], list[int]] = {}
        for place, entry in enumerate(entries):
            places.setdefault((entry.role, entry.item.instruction), []).append(place)
        vectors: dict[int, Floats] = {}
        for (role, instruction), chosen in places.items():
            turns = [[self._turn(entries[place].item)] for place in chosen]
            vectors.update(zip(chosen, self._encode(turns, role, instruction), strict=True))
        return np.stack([vectors[place] for place in range(len(entries))])

    def _encode(self, turns: list[Any], role: str, instruction: str | None) -> Any:
        """Embeds conversations; the prompt of a role is looked up by Sentence Transformers."""
        if instruction is not None:
            # a Router may have no route for inputs without a task
            task = "query" if role == "query" else "document"
            return self._model.encode(turns, prompt=instruction, task=task, batch_size=THEIR_BATCH)
        encode = self._model.encode_query if role == "query" else self._model.encode_document
        return encode(turns, batch_size=THEIR_BATCH)

    def _turn(self, item: Input) -> dict[str, Any]:
        """Returns an input as a chat message."""
        return {"role": "user", "content": [self._part(part) for part in item.content]}

    def _part(self, part: Any) -> dict[str, Any]:
        """Returns a part as a chat message has it."""
        if isinstance(part, Picture):
            return {"type": "image", "image": open_image(part.source, self._rules)}
        return {"type": "text", "text": part}
