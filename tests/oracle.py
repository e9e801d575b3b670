"""transformers' own processors and models as the oracle of the contract, torchvision's absence on this PyTorch worked around.

transformers' video processors import torchvision, whose wheel does not load beside a CPU build of PyTorch of another
origin; two operators it registers fakes for are defined here first. It lies in a folder of its own, which nothing but
the tests sees.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(sys.prefix) / "oracle"


def prepare() -> bool:
    """Makes torchvision importable; before transformers is imported. Returns whether it is there."""
    if not FOLDER.is_dir():
        return False
    import torch

    prepare.library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[attr-defined]
    for name in ("nms", "qnms"):
        prepare.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[attr-defined]
    sys.path.append(str(FOLDER))
    return True


class Oracle:
    """The family's processor and `get_rope_index` over one backbone folder, under a contract's budget."""

    def __init__(self, family: str, folder: Path, contract: Any) -> None:
        from lame_training.backbones import load_backbone
        from transformers import (
            PreTrainedTokenizerFast,
            Qwen2_5_VLProcessor,
            Qwen2VLProcessor,
            Qwen2VLVideoProcessor,
            Qwen3VLProcessor,
            Qwen3VLVideoProcessor,
        )
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self.contract = contract
        images, videos = contract.images, contract.videos
        geometry = {key: getattr(images, key) for key in ("patch_size", "temporal_patch_size", "merge_size")}
        kind = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}[family]
        self.video = (Qwen3VLVideoProcessor if family == "qwen3_vl" else Qwen2VLVideoProcessor)(
            size={"shortest_edge": videos.min_pixels, "longest_edge": videos.max_pixels},
            image_mean=videos.mean, image_std=videos.std, max_video_tokens=videos.max_video_tokens,
            cap_pixels_per_frame=videos.cap_pixels_per_frame, min_frames=videos.min_frames, max_frames=videos.max_frames, fps=videos.fps,
            do_sample_frames=False, **geometry,
        )  # fmt: skip
        self.processor = kind(
            image_processor=Qwen2VLImageProcessorPil(
                size={"shortest_edge": images.min_pixels, "longest_edge": images.max_pixels},
                image_mean=list(images.mean),
                image_std=list(images.std),
                **geometry,
            ),
            tokenizer=PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")),
            video_processor=self.video,
            chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
        )
        self.model = load_backbone(folder, "auto")

    def __call__(self, content: list[dict[str, Any]], latents: int) -> dict[str, Any]:
        """What transformers makes of a user's turn: ids, M-RoPE positions with `latents` ids appended, patches, grids.

        Args:
            content: parts, {"type": "text", "text"}, {"type": "image", "image": RGB} or {"type": "video", "video": frames, "fps"}.
            latents: how many ids follow the prompt.
        """
        import torch

        shown = [{"type": part["type"], **({"text": part["text"]} if part["type"] == "text" else {})} for part in content]
        turns = [{"role": "user", "content": shown}]
        text = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        pictures = [part["image"] for part in content if part["type"] == "image"]
        clips = [part for part in content if part["type"] == "video"]
        extra: dict[str, Any] = {}
        if clips:
            lengths = [len(clip["video"]) for clip in clips]
            metadata = [
                {"fps": clip["fps"], "total_num_frames": length, "frames_indices": list(range(length))}
                for clip, length in zip(clips, lengths, strict=True)
            ]
            frames = [np.stack([np.asarray(frame) for frame in clip["video"]]) for clip in clips]
            extra = {"videos": frames, "video_metadata": metadata, "do_sample_frames": False}
        found = self.processor(text=[text], images=pictures or None, return_tensors="pt", **extra)
        ids = torch.cat([found["input_ids"], torch.zeros(1, latents, dtype=torch.int64)], dim=1)
        kinds = (ids == self.contract.tokens.image_pad).int() + 2 * (ids == self.contract.tokens.video_pad).int()
        known = {key: found[key] for key in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts") if key in found}
        positions, _ = self.model.get_rope_index(input_ids=ids, mm_token_type_ids=kinds, **known)
        return {
            "ids": found["input_ids"][0].tolist(),
            "positions": positions[:, 0].numpy(),
            "image_patches": found["pixel_values"].numpy() if "pixel_values" in found else None,
            "video_patches": found["pixel_values_videos"].numpy() if "pixel_values_videos" in found else None,
            "grids": {key: value.tolist() for key, value in known.items() if key.endswith("thw")},
        }
