"""The certificate's rows that need PyTorch, transformers or the emulations."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lame_runtime import gates
from lame_runtime.backends.base import Backend, Batch, Floats, PictureGroup
from lame_runtime.compare import embed_golden, similarity
from lame_runtime.contract.images import open_image
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.contract.rules import Contract, TokenRules
from lame_runtime.contract.vectors import finish, quantize, restore
from lame_runtime.encoder import Encoder
from lame_runtime.gates import Result, judge
from lame_runtime.golden import Golden
from lame_runtime.retrieval import Row, Vectors, distinct, embed_rows, evaluate, key
from lame_training.model import LaMEModel
from lame_training.upcast import compute_in_fp32

from lame_export.forward import SinglePassEncoder, Vision

TOP = 10


class TracedBackend(Backend):
    """The forward that is traced, run by PyTorch: what the graphs would compute if export changed nothing."""

    def __init__(self, model: LaMEModel) -> None:
        self.name = "traced forward"
        self.width = model.feature_width
        self._vision, self._encoder = Vision(model.backbone.visual).eval(), SinglePassEncoder(model).eval()
        compute_in_fp32(self._vision)
        compute_in_fp32(self._encoder)

    def module(self, part: str) -> torch.nn.Module:
        """The forward of "vision" or "encoder"."""
        return self._vision if part == "vision" else self._encoder

    @torch.inference_mode()
    def vision(self, group: PictureGroup) -> Floats:
        """See `Backend.vision`."""
        return self._vision(**_tensors(group.vision_feeds())).numpy()

    @torch.inference_mode()
    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """See `Backend.encoder`."""
        return self._encoder(**_tensors(batch.encoder_feeds(features_FD))).numpy()


def _tensors(feeds: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The same arrays as tensors; what is read-only is copied, since PyTorch has no read-only tensors."""
    return {name: torch.from_numpy(value if value.flags.writeable else value.copy()) for name, value in feeds.items()}


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
    """The contract against transformers' own tokenizer, picture processor (its PIL form) and `get_rope_index`.

    A video's frames are resized by torchvision there, which an exporter need not have: of videos, ids and positions
    are compared, and the patches in this project's tests.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    contract = preparer.contract
    rules, tokens = contract.images, contract.tokens
    processor = Qwen2VLImageProcessorPil(
        patch_size=rules.patch_size,
        temporal_patch_size=rules.temporal_patch_size,
        merge_size=rules.merge_size,
        size={"shortest_edge": rules.min_pixels, "longest_edge": rules.max_pixels},
        image_mean=list(rules.mean),
        image_std=list(rules.std),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file))
    wrong: dict[str, int] = defaultdict(int)
    for each in golden.inputs:
        prepared = preparer(each.item, each.role)
        equal, pictures, clips = True, [], []
        for part, visual in zip((part for part in each.item.parts if not isinstance(part, str)), prepared.visuals, strict=True):
            if isinstance(part, Video):
                clips.append((visual.grid, rules.temporal_patch_size / (part.fps or contract.videos.fps)))
                continue
            theirs = processor(open_image(part.source, rules), return_tensors="np")
            equal = equal and np.array_equal(visual.patches(contract)[0], theirs["pixel_values"])
            pictures.append(theirs["image_grid_thw"][0].tolist())
        said = _whole_prompt(contract, each.item, each.role, pictures, clips)
        ids = tokenizer(said, add_special_tokens=False)["input_ids"]
        equal = equal and ids == prepared.ids[: -tokens.n_reason - 1].tolist()
        theirs_3L = _rope_index(model, prepared.ids, tokens, pictures, clips)
        wrong[each.modality] += not (equal and np.array_equal(theirs_3L, prepared.positions))
    return [
        judge(
            "contract vs transformers' processor", "", modality, len(golden.of(modality)), gates.CONTRACT, {"mismatches": wrong[modality]}
        )
        for modality in golden.modalities
    ]


Clips = list[tuple[tuple[int, int, int], float]]
"""Per video its patch grid and the seconds from one temporal patch to the next."""


def _whole_prompt(contract: Contract, item: Input, role: str, pictures: list[list[int]], clips: Clips) -> str:
    """The prompt as one string, vision tokens written out."""
    layout, area = contract.prompt, contract.images.merge_size**2
    instruction = layout.roles[role] if item.instruction is None else item.instruction
    grids, videos = iter(pictures), iter(clips)
    said = layout.prefix
    for part in item.parts:
        if isinstance(part, str):
            said, instruction = said + layout.separator.join(each for each in (instruction, part) if each), ""
        elif isinstance(part, Picture):
            _, rows, columns = next(grids)
            said += f"{layout.image_open}{'<|image_pad|>' * (rows * columns // area)}{layout.image_close}"
        else:
            (times, rows, columns), seconds = next(videos)
            pads = "<|video_pad|>" * (rows * columns // area)
            if contract.videos.timestamps:
                assert isinstance(part.source, tuple)  # golden videos are lists of frames
                frames, last = contract.images.temporal_patch_size, len(part.source) - 1
                rate = frames / seconds
                middles = [(frames * time + min(frames * time + frames - 1, last)) / 2 / rate for time in range(times)]
                body = "".join(f"<{middle:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for middle in middles)
            else:
                body = pads * times
            said += f"{layout.video_open}{body}{layout.video_close}"
    return said + instruction + layout.suffix


def _rope_index(model: LaMEModel, ids: np.ndarray[Any, Any], tokens: TokenRules, pictures: list[list[int]], clips: Clips) -> Any:
    """Transformers' M-RoPE positions of one prompt: int64 (3, length)."""
    known: dict[str, Any] = {}
    if pictures:
        known["image_grid_thw"] = torch.tensor(pictures)
    if clips:
        known["video_grid_thw"] = torch.tensor([grid for grid, _ in clips])
        if hasattr(model.backbone.config.vision_config, "tokens_per_second"):
            known["second_per_grid_ts"] = [seconds for _, seconds in clips]
    row = torch.from_numpy(ids)[None]
    kinds = (row == tokens.image_pad).int() + 2 * (row == tokens.video_pad).int()
    positions, _ = model.backbone.get_rope_index(input_ids=row, mm_token_type_ids=kinds, **known)
    return positions[:, 0].numpy()


def retrieval_rows(graph: str, reference: Vectors, found: Vectors, rows: dict[str, list[Row]], *, trained: bool, note: str) -> list[Result]:
    """hit@1 and the ten nearest documents under a graph beside PyTorch's, per pair of modalities.

    Gated for the INT8 graphs of a trained model over at least `gates.RETRIEVAL_QUERIES` queries, reported otherwise.
    """
    gated = graph.startswith("int8") and trained
    return _retrieval("retrieval vs PyTorch" + (f", {note}" if note else ""), graph, reference, found, rows, gated=gated)


def vector_rows(reference: Vectors, rows: dict[str, list[Row]], golden: Golden) -> list[Result]:
    """What fewer bits and shorter prefixes of PyTorch's vectors cost in retrieval, reported and not gated."""
    dim = golden.embeddings.shape[1]
    largest = float(np.abs(golden.embeddings).max())
    ways: dict[str, Callable[[Floats], Floats]] = {
        "int8, uint8": lambda vectors: restore(quantize(vectors, "int8", largest), "int8", dim),
        "binary, ubinary": lambda vectors: restore(quantize(vectors, "binary", largest), "binary", dim),
    }
    for kept in (dim // 2, dim // 4):
        ways[f"the first {kept} values"] = functools.partial(finish, truncate_dim=kept)
    results = []
    for name, way in ways.items():

        def embed(items: list[Input], role: str, way: Callable[[Floats], Floats] = way) -> Floats:
            return way(np.stack([reference.query(item) for item in items]) if role == "query" else reference.documents(items))

        results += _retrieval(f"vectors as {name} vs float32", "", reference, embed_rows(embed, rows), rows, gated=False)
    return results


def _retrieval(comparison: str, graph: str, reference: Vectors, found: Vectors, rows: dict[str, list[Row]], *, gated: bool) -> list[Result]:
    """A row per pair of modalities; gated ones only over enough queries."""
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
        gate = gates.RETRIEVAL if gated and len(queries) >= gates.RETRIEVAL_QUERIES else None
        results.append(judge(comparison, graph, pair, len(queries), gate, figure))
    return results


def _recall(rows: dict[str, list[Row]], vectors: Vectors) -> float:
    ranks = [rank for result in evaluate(rows, vectors) for rank in result.ranks]
    return float(np.mean([rank == 0 for rank in ranks]))


def _agreement(queries: list, documents: list, reference: Vectors, found: Vectors) -> dict[str, float]:  # type: ignore[type-arg]
    """Share of the ten nearest documents both find, of queries whose nearest is the same; cosines where lengths are equal."""
    unique = list({key(query): query for query in queries}.values())
    rows = [(np.stack([each.query(query) for query in unique]), each.documents(documents)) for each in (reference, found)]
    tops = [np.argsort(-(asked @ told.T), axis=1, kind="stable")[:, :TOP] for asked, told in rows]
    overlap = [len(set(a) & set(b)) / len(a) for a, b in zip(*tops, strict=True)]
    same = float(np.mean(tops[0][:, 0] == tops[1][:, 0]))
    figure = {"top10_overlap": float(np.mean(overlap)), "top1_agreement": same, "distinct_queries": len(unique)}
    exact, graph = (np.concatenate(pair) for pair in rows)
    if exact.shape == graph.shape:  # shorter vectors have no cosine to whole ones
        cosines = similarity(graph, exact)
        figure |= {name: cosines[name] for name in ("mean_cosine", "min_cosine")}
    return figure


def check_rows(graph: str, findings: dict[str, list[str]]) -> list[Result]:
    """A row per checker (name → findings) over the two files of a graph."""
    return [
        judge(name, graph, "files", 2, gates.CHECKED, {"problems": len(found)}, f"first: {found[0]}" if found else "")
        for name, found in findings.items()
    ]
