"""The certificate's rows that need PyTorch, transformers or the emulations."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from lame_runtime import gates
from lame_runtime.backends.base import Backend, Batch, Floats, PictureGroup
from lame_runtime.compare import embed_golden, similarity
from lame_runtime.contract.images import image_patches, open_image
from lame_runtime.contract.preparer import Preparer
from lame_runtime.encoder import Encoder
from lame_runtime.gates import Result, judge
from lame_runtime.golden import Golden
from lame_runtime.retrieval import Row, Vectors, distinct, evaluate, key
from lame_training.model import LaMEModel

from lame_export.forward import SinglePassEncoder, Vision

TOP = 10


class TracedBackend(Backend):
    """The forward that is traced, run by PyTorch: what the graphs would compute if export changed nothing."""

    def __init__(self, model: LaMEModel) -> None:
        self.name = "traced forward"
        self.width = model.backbone.config.text_config.hidden_size
        self._vision, self._encoder = Vision(model.backbone.visual).eval(), SinglePassEncoder(model).eval()

    @torch.inference_mode()
    def vision(self, group: PictureGroup) -> Floats:
        """See `Backend.vision`."""
        feeds = {name: torch.from_numpy(value) for name, value in group.vision_feeds().items()}
        return self._vision(**feeds).numpy()

    @torch.inference_mode()
    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """See `Backend.encoder`."""
        feeds = {name: torch.from_numpy(value) for name, value in batch.encoder_feeds(features_FD).items()}
        return self._encoder(**feeds).numpy()


def traced_rows(model: LaMEModel, preparer: Preparer, golden: Golden) -> list[Result]:
    """The traced forward against transformers' own, per modality."""
    encoder = Encoder(preparer, TracedBackend(model), "traced")
    rows = []
    for modality in golden.modalities:
        chosen = golden.of(modality)
        found = similarity(embed_golden(encoder, golden, chosen, 32), golden.embeddings[chosen])
        figure = {"max_abs": found["max_abs"]}
        rows.append(judge("traced forward vs transformers", "fp32", modality, len(chosen), gates.TRACED_VS_TRANSFORMERS, figure))
    return rows


def processor_rows(model: LaMEModel, preparer: Preparer, tokenizer_file: Path, golden: Golden) -> list[Result]:
    """The contract against transformers' own tokenizer, picture processor (its PIL form) and `get_rope_index`."""
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    rules, tokens = preparer.contract.images, preparer.contract.tokens
    processor = Qwen2VLImageProcessorPil(
        patch_size=rules.patch_size,
        temporal_patch_size=rules.temporal_patch_size,
        merge_size=rules.merge_size,
        size={"shortest_edge": rules.min_pixels, "longest_edge": rules.max_pixels},
        image_mean=list(rules.mean),
        image_std=list(rules.std),
    )
    tokenizer, layout = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file)), preparer.contract.prompt
    wrong: dict[str, int] = defaultdict(int)
    for each in golden.inputs:
        prepared = preparer(each.item, each.role)
        equal, grids, vision = True, None, ""
        if each.item.image is not None:
            theirs = processor(open_image(each.item.image, rules), return_tensors="np")
            (picture,) = prepared.pictures
            equal = np.array_equal(image_patches(picture.pixels, rules), theirs["pixel_values"])
            grids = torch.from_numpy(theirs["image_grid_thw"])
            pads = "<|image_pad|>" * (picture.n_patches // rules.merge_size**2)
            vision = f"<|vision_start|>{pads}<|vision_end|>"
        instruction = layout.roles[each.role] if each.item.instruction is None else each.item.instruction
        said = layout.separator.join(part for part in (instruction, each.item.text) if part)
        theirs_ids = tokenizer(layout.prefix + vision + said + layout.suffix, add_special_tokens=False)["input_ids"]
        equal = equal and theirs_ids == prepared.ids[: -tokens.n_reason - 1].tolist()
        ids = torch.from_numpy(prepared.ids)[None]
        kinds = (ids == tokens.image_pad).int()
        positions, _ = model.backbone.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grids)
        equal = equal and np.array_equal(positions[:, 0].numpy(), prepared.positions)
        wrong[each.modality] += not equal
    return [
        judge(
            "contract vs transformers' processor", "", modality, len(golden.of(modality)), gates.CONTRACT, {"mismatches": wrong[modality]}
        )
        for modality in golden.modalities
    ]


def retrieval_rows(graph: str, reference: Vectors, found: Vectors, rows: dict[str, list[Row]], *, trained: bool, note: str) -> list[Result]:
    """hit@1 and the ten nearest documents under a graph beside PyTorch's, per pair of modalities.

    Gated for the INT8 graphs of a trained model over at least `gates.RETRIEVAL_QUERIES` queries, reported otherwise.
    """
    pairs: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for task, each in rows.items():
        for row in each:
            pairs[f"{row.query.modality} → {row.candidates[0].modality}"][task].append(row)
    results = []
    for pair, by_task in sorted(pairs.items()):
        queries = [row.query for each in by_task.values() for row in each]
        documents = distinct(item for each in by_task.values() for row in each for item in row.candidates)
        drop = _recall(by_task, reference) - _recall(by_task, found)
        figure = {"recall_drop": drop, **_agreement(queries, documents, reference, found)}
        gated = graph.startswith("int8") and trained and len(queries) >= gates.RETRIEVAL_QUERIES
        results.append(
            judge(
                "retrieval vs PyTorch" + (f", {note}" if note else ""),
                graph,
                pair,
                len(queries),
                gates.RETRIEVAL if gated else None,
                figure,
            )
        )
    return results


def _recall(rows: dict[str, list[Row]], vectors: Vectors) -> float:
    ranks = [rank for result in evaluate(rows, vectors) for rank in result.ranks]
    return float(np.mean([rank == 0 for rank in ranks]))


def _agreement(queries: list, documents: list, reference: Vectors, found: Vectors) -> dict[str, float]:  # type: ignore[type-arg]
    """Share of the ten nearest documents both find, and of queries whose nearest is the same."""
    unique = list({key(query): query for query in queries}.values())
    tops = []
    for vectors in (reference, found):
        scores = np.stack([vectors.query(query) for query in unique]) @ vectors.documents(documents).T
        tops.append(np.argsort(-scores, axis=1, kind="stable")[:, :TOP])
    overlap = [len(set(a) & set(b)) / len(a) for a, b in zip(*tops, strict=True)]
    same = float(np.mean(tops[0][:, 0] == tops[1][:, 0]))
    return {"top10_overlap": float(np.mean(overlap)), "top1_agreement": same, "distinct_queries": len(unique)}


def check_rows(graph: str, findings: dict[str, list[str]]) -> list[Result]:
    """A row per checker (name → findings) over the two files of a graph."""
    return [
        judge(name, graph, "files", 2, gates.CHECKED, {"problems": len(found)}, f"first: {found[0]}" if found else "")
        for name, found in findings.items()
    ]
