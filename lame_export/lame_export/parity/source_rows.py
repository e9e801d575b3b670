"""Makes the certificate rows that compare the contract and the traced forward with transformers."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lame_runtime.bundle.certificate import Result
from lame_runtime.bundle.golden import Golden, GoldenInput
from lame_runtime.contract.media.images import open_image
from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input, Picture, Video, layout_parts
from lame_runtime.contract.rules import Contract, ImageRules, TokenRules
from lame_runtime.encoder import Encoder
from lame_runtime.errors import ExportError
from lame_runtime.parity import gates
from lame_runtime.parity.compare import BATCH_SIZE, embed_golden, similarity
from lame_runtime.parity.gates import judge
from lame_training.model.lame import LaMEModel

from lame_export.parity.traced_backend import TracedBackend


def traced_rows(model: LaMEModel, preparer: Preparer, golden: Golden) -> list[Result]:
    """Compares the traced forward with transformers' forward; returns one row per modality."""
    encoder = Encoder(preparer, TracedBackend(model, preparer.contract), "traced")
    rows = []
    for modality in golden.modalities:
        indices = golden.of(modality)
        vectors = embed_golden(encoder, golden, indices, BATCH_SIZE)
        figure = {"max_abs": similarity(vectors, golden.embeddings[indices])["max_abs"]}
        comparison, gate = "traced forward vs transformers", gates.TRACED_VS_TRANSFORMERS
        rows.append(judge(comparison, "fp32", modality, len(indices), gate, figure))
    return rows


def processor_rows(
    model: LaMEModel, preparer: Preparer, tokenizer_file: Path, golden: Golden
) -> list[Result]:
    """Compares the contract with transformers' tokenizer, picture processor and `get_rope_index`.

    Pictures go through transformers' processor for PIL. For videos only ids and positions are
    compared, because transformers resizes frames with torchvision, which is not a dependency; the
    tests of this project compare the patches.

    Returns:
        One row per modality; its figure is the number of inputs that differ.
    """
    theirs = _TheirProcessor(model, preparer.contract, tokenizer_file)
    mismatches: dict[str, int] = defaultdict(int)
    for entry in golden.inputs:
        prepared = preparer(entry.item, entry.role)
        mismatches[entry.modality] += not theirs.agrees(entry, prepared)
    return [
        judge(
            "contract vs transformers' processor",
            "",
            modality,
            len(golden.of(modality)),
            gates.CONTRACT,
            {"mismatches": mismatches[modality]},
        )
        for modality in golden.modalities
    ]


def picture_processor(rules: ImageRules) -> Any:
    """Returns transformers' picture processor for PIL, configured by the contract."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=rules.patch_size,
        temporal_patch_size=rules.temporal_patch_size,
        merge_size=rules.merge_size,
        size={"shortest_edge": rules.min_pixels, "longest_edge": rules.max_pixels},
        image_mean=list(rules.mean),
        image_std=list(rules.std),
    )


@dataclass
class _Visuals:
    """Holds the patch grids of one input in the form that transformers takes."""

    pictures: list[list[int]] = field(default_factory=list)
    """Times, rows and columns of each picture."""
    clips: list[tuple[tuple[int, int, int], float]] = field(default_factory=list)
    """Patch grid of each video, and the seconds between two temporal patches."""


class _TheirProcessor:
    """Runs transformers' tokenizer and picture processor, configured by the contract."""

    def __init__(self, model: LaMEModel, contract: Contract, tokenizer_file: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        self._model, self._contract = model, contract
        self._tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file))
        self._process = picture_processor(contract.images)

    def agrees(self, entry: GoldenInput, prepared: Prepared) -> bool:
        """Returns whether patches, ids and positions are equal, element by element."""
        contract, tokens = self._contract, self._contract.tokens
        visuals, equal = self._visuals(entry.item, prepared)
        # the prompt is written by separate code: comparing the contract with itself proves nothing
        prompt = _whole_prompt(contract, entry.item, entry.role, visuals)
        ids = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        # transformers' prompt ends before the reason tokens and [EMBED], which LaME adds
        equal = equal and ids == prepared.ids[: len(prepared.ids) - tokens.n_latents].tolist()
        positions_3L = _rope_index(self._model, prepared.ids, tokens, visuals)
        return equal and np.array_equal(positions_3L, prepared.positions)

    def _visuals(self, item: Input, prepared: Prepared) -> tuple[_Visuals, bool]:
        """Returns the patch grids, and whether the patches of all pictures are equal."""
        rules, videos = self._contract.images, self._contract.videos
        visuals, equal = _Visuals(), True
        listed = layout_parts(self._contract.prompt, item)
        parts = [part for part in listed if not isinstance(part, str)]
        for part, visual in zip(parts, prepared.visuals, strict=True):
            if isinstance(part, Video):
                seconds = rules.temporal_patch_size / (part.fps or videos.fps)
                visuals.clips.append((visual.grid, seconds))
                continue
            processed = self._process(open_image(part.source, rules), return_tensors="np")
            patches = visual.pixel_patches(self._contract)[0]
            equal = equal and np.array_equal(patches, processed["pixel_values"])
            visuals.pictures.append(processed["image_grid_thw"][0].tolist())
        return visuals, equal


def _whole_prompt(contract: Contract, item: Input, role: str, visuals: _Visuals) -> str:
    """Writes the prompt as one string with all vision tokens, as transformers' processor does."""
    layout, merge_area = contract.prompt, contract.images.merge_size**2
    instruction = layout.roles[role] if item.instruction is None else item.instruction
    if layout.punctuate:
        instruction = instruction.strip()
        ends_well = not instruction or unicodedata.category(instruction[-1])[0] == "P"
        instruction += "" if ends_well else "."
    grids, clips = iter(visuals.pictures), iter(visuals.clips)
    prompt = layout.prefix
    if layout.system_open and instruction:
        prompt, instruction = f"{layout.system_open}{instruction}{layout.system_close}", ""
    for part in layout_parts(layout, item):
        if isinstance(part, str):
            # the instruction precedes the first text, or ends the prompt if there is no text
            prompt += layout.separator.join(text for text in (instruction, part) if text)
            instruction = ""
        elif isinstance(part, Picture):
            _, rows, columns = next(grids)
            pads = "<|image_pad|>" * (rows * columns // merge_area)
            prompt += f"{layout.image_open}{pads}{layout.image_close}"
        else:
            prompt += _video_prompt(contract, part, *next(clips))
    return prompt + instruction + layout.text_close + layout.suffix


def _video_prompt(
    contract: Contract, video: Video, grid: tuple[int, int, int], seconds: float
) -> str:
    """Writes the vision tokens of a video; Qwen3-VL puts a time before each temporal patch."""
    layout = contract.prompt
    times, rows, columns = grid
    pads = "<|video_pad|>" * (rows * columns // contract.images.merge_size**2)
    if not contract.videos.timestamps:
        return f"{layout.video_open}{pads * times}{layout.video_close}"
    if not isinstance(video.source, tuple):
        raise ExportError("a golden video is a file; golden videos are lists of frames")
    frames, last = contract.images.temporal_patch_size, len(video.source) - 1
    rate = frames / seconds
    body = ""
    for time in range(times):
        # the time halfway between the patch's first and last frame; the last patch may be padded
        first_frame, last_frame = frames * time, min(frames * time + frames - 1, last)
        middle = (first_frame + last_frame) / 2 / rate
        body += f"<{middle:.1f} seconds><|vision_start|>{pads}<|vision_end|>"
    return f"{layout.video_open}{body}{layout.video_close}"


def _rope_index(
    model: LaMEModel, ids: np.ndarray[Any, Any], tokens: TokenRules, visuals: _Visuals
) -> Any:
    """Returns transformers' positions of one prompt: int64 (3, length)."""
    if tokens.positions == "sequential":
        # what a model computes that is given neither positions nor ids
        return np.stack([np.arange(len(ids))] * 3)
    options: dict[str, Any] = {}
    if visuals.pictures:
        options["image_grid_thw"] = torch.tensor(visuals.pictures)
    if visuals.clips:
        options["video_grid_thw"] = torch.tensor([grid for grid, _ in visuals.clips])
        # only Qwen2.5-VL derives the positions of frames from seconds
        if hasattr(model.backbone.config.vision_config, "tokens_per_second"):
            options["second_per_grid_ts"] = [seconds for _, seconds in visuals.clips]
    ids_1L = torch.from_numpy(ids)[None]
    # 0 for text, 1 for picture, 2 for video
    kinds_1L = (ids_1L == tokens.image_pad).int() + 2 * (ids_1L == tokens.video_pad).int()
    positions_31L, _ = model.backbone.get_rope_index(
        input_ids=ids_1L, mm_token_type_ids=kinds_1L, **options
    )
    return positions_31L[:, 0].numpy()
