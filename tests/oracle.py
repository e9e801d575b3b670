"""The test oracle of the contract: transformers' own processors, and its models' M-RoPE positions.

transformers' video processors import torchvision. Its wheel does not load beside every build of
PyTorch: it registers fake kernels for two operators that its binary part should have defined. Both
are defined here first. torchvision lies in a folder of its own, which only the tests see.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(sys.prefix) / "oracle"


def prepare() -> bool:
    """Makes torchvision importable. Must be called before transformers is imported.

    Returns:
        Whether torchvision is installed in `FOLDER`.
    """
    if not FOLDER.is_dir():
        return False
    import torch

    # kept on the function: torch removes the operators when the library object is collected
    prepare.library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[attr-defined]
    for name in ("nms", "qnms"):
        prepare.library.define(  # type: ignore[attr-defined]
            f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    sys.path.append(str(FOLDER))
    return True


class Oracle:
    """A family's processor and `get_rope_index`, with the limits of a contract.

    Args:
        family: one of `backbones.FAMILIES`.
        folder: the backbone folder, for tokenizer, chat template and model.
        contract: a `Contract`, for picture and video rules.
    """

    def __init__(self, family: str, folder: Path, contract: Any) -> None:
        from lame_training.model.backbones import load_backbone
        from transformers import (
            PreTrainedTokenizerFast,
            Qwen2_5_VLProcessor,
            Qwen2VLProcessor,
            Qwen2VLVideoProcessor,
            Qwen3VLProcessor,
            Qwen3VLVideoProcessor,
        )
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        self.contract = contract
        images, videos = contract.images, contract.videos
        geometry = {
            key: getattr(images, key) for key in ("patch_size", "temporal_patch_size", "merge_size")
        }
        processor_class = {
            "qwen2_vl": Qwen2VLProcessor,
            "qwen2_5_vl": Qwen2_5_VLProcessor,
            "qwen3_vl": Qwen3VLProcessor,
            "qwen3_vl_moe": Qwen3VLProcessor,
        }[family]
        # Qwen2.5-VL has a processor, but no video processor of its own
        is_third = family.startswith("qwen3_vl")
        video_class = Qwen3VLVideoProcessor if is_third else Qwen2VLVideoProcessor
        self.video = video_class(
            # despite their names these are numbers of pixels
            size={"shortest_edge": videos.min_pixels, "longest_edge": videos.max_pixels},
            image_mean=videos.mean,
            image_std=videos.std,
            max_video_tokens=videos.max_video_tokens,
            cap_pixels_per_frame=videos.cap_pixels_per_frame,
            min_frames=videos.min_frames,
            max_frames=videos.max_frames,
            fps=videos.fps,
            do_sample_frames=False,
            **geometry,
        )
        self.processor = processor_class(
            # the PIL version: the default one resizes tensors, with other roundings
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
        """Processes a user's turn as transformers does.

        Args:
            content: the parts: {"type": "text", "text"}, {"type": "image", "image": RGB picture} or
                {"type": "video", "video": frames, "fps"}.
            latents: number of latent tokens behind the prompt.

        Returns:
            ids of the prompt; M-RoPE positions (3, L) of prompt and latent tokens; patches of
            pictures and of videos, or None; and grids by transformers' name.
        """
        import torch

        # the template needs the kinds of parts, and only texts themselves
        parts = [
            {"type": part["type"], **({"text": part["text"]} if part["type"] == "text" else {})}
            for part in content
        ]
        turns = [{"role": "user", "content": parts}]
        text = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        pictures = [part["image"] for part in content if part["type"] == "image"]
        clips = [part for part in content if part["type"] == "video"]
        extra: dict[str, Any] = {}
        if clips:
            lengths = [len(clip["video"]) for clip in clips]
            metadata = [
                {
                    "fps": clip["fps"],
                    "total_num_frames": length,
                    "frames_indices": list(range(length)),
                }
                for clip, length in zip(clips, lengths, strict=True)
            ]
            frames = [np.stack([np.asarray(frame) for frame in clip["video"]]) for clip in clips]
            extra = {"videos": frames, "video_metadata": metadata, "do_sample_frames": False}
        output = self.processor(text=[text], images=pictures or None, return_tensors="pt", **extra)
        # to transformers, latent tokens are text tokens; 0 is the id of some text token
        ids = torch.cat([output["input_ids"], torch.zeros(1, latents, dtype=torch.int64)], dim=1)
        # transformers' numbers: 0 text, 1 picture, 2 video
        kinds = (ids == self.contract.tokens.image_pad).int() + 2 * (
            ids == self.contract.tokens.video_pad
        ).int()
        grids = {
            key: output[key]
            for key in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
            if key in output
        }
        positions, _ = self.model.get_rope_index(input_ids=ids, mm_token_type_ids=kinds, **grids)
        image_patches, video_patches = output.get("pixel_values"), output.get("pixel_values_videos")
        return {
            "ids": output["input_ids"][0].tolist(),
            "positions": positions[:, 0].numpy(),
            "image_patches": None if image_patches is None else image_patches.numpy(),
            "video_patches": None if video_patches is None else video_patches.numpy(),
            "grids": {key: value.tolist() for key, value in grids.items() if key.endswith("thw")},
        }
