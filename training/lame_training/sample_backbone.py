"""A backbone folder in random weights: for tests, and for trying things at real size where no model hub is reachable.

    python -m lame_training.sample_backbone qwen3_vl DIR              a few hundred thousand parameters
    python -m lame_training.sample_backbone qwen2_vl DIR --size 2b    the published shape, in FP16

The folder is what `save_pretrained` and the processor's files look like: config, safetensors, tokenizer, preprocessor
configs and chat template. The larger shapes are the published ones (`shapes`); the tokenizer is small, so most rows of
the embedding table are never read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from lame_runtime.cli import path, run_command
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import InputError

from lame_training.backbones import FAMILIES
from lame_training.chat import PUBLISHED
from lame_training.derive import published_images, published_videos
from lame_training.shapes import ROPE, SHAPES
from lame_training.vocabulary import train_tokenizer

TEXTS = (
    "What do the digits add up to?",
    "digits that add up to fifteen",
    "Name the digit.",
    "seven",
    "<0.3 seconds>",
    "user assistant system",
)
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
WIDE = {"initializer_range": 0.08}
"""0.02 is for wide models: at width 64 it makes all inputs alike."""
VISION = {"depth": 4, "num_heads": 2, "patch_size": 14, **WIDE}
TINY: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "text_config": {**TEXT, **WIDE, "rope_parameters": {**ROPE, "mrope_section": [2, 3, 3]}},
        "vision_config": {**VISION, "embed_dim": 32, "hidden_size": 64},
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, **WIDE, "rope_parameters": {**ROPE, "mrope_section": [2, 3, 3]}},
        "vision_config": {**VISION, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "fullatt_block_indexes": [1, 3],
                          "tokens_per_second": 2},
    },
    "qwen3_vl": {
        "text_config": {**TEXT, **WIDE, "head_dim": 32, "rope_parameters": {**ROPE, "mrope_section": [8, 4, 4], "mrope_interleaved": True}},
        "vision_config": {**VISION, "patch_size": 16, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64,
                          "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2]},
    },
}  # fmt: skip


def write_sample(family: str, folder: Path, size: str = "tiny", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
    """Writes the folder.

    Args:
        family: one of `backbones.FAMILIES`.
        folder: to be made.
        size: "tiny", or one of `shapes.SHAPES`.
        seed: of the weights.
        dtype: of the weights.

    Raises:
        InputError: an unknown family or size, or a folder that is not empty.
    """
    shape = TINY.get(family) if size == "tiny" else SHAPES.get((family, size))
    if shape is None:
        there = ", ".join([f"{name} tiny" for name in TINY] + [" ".join(pair) for pair in SHAPES])
        raise InputError(f"no sample of {family!r} in size {size!r}: there are {there}")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(TEXTS * 4, 400, folder / "tokenizer.json")
    tokenizer = TextTokenizer(folder / "tokenizer.json")
    config = FAMILIES[family].config(
        text_config={
            "vocab_size": tokenizer.size,
            **shape["text_config"],
            "bos_token_id": None,
            "eos_token_id": tokenizer.special("<|im_end|>"),
        },
        vision_config=shape["vision_config"],
        image_token_id=tokenizer.special("<|image_pad|>"),
        video_token_id=tokenizer.special("<|video_pad|>"),
        vision_start_token_id=tokenizer.special("<|vision_start|>"),
        vision_end_token_id=tokenizer.special("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = FAMILIES[family].model(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():  # a trained model's norms and biases are neither one nor zero
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, dtype=torch.float32).to(dtype)
    model.to(dtype).save_pretrained(folder)
    _write_processor(family, folder)


def _write_processor(family: str, folder: Path) -> None:
    images, videos = dataclasses.asdict(published_images(family)), dataclasses.asdict(published_videos(family))
    geometry = {key: images[key] for key in ("patch_size", "temporal_patch_size", "merge_size")}
    sized = {
        name: {"shortest_edge": rules["min_pixels"], "longest_edge": rules["max_pixels"]} for name, rules in (("i", images), ("v", videos))
    }
    picture = {**geometry, "image_mean": images["mean"], "image_std": images["std"], "size": sized["i"]}
    video = {**geometry, "image_mean": videos["mean"], "image_std": videos["std"], "size": sized["v"]}
    video |= {key: videos[key] for key in ("fps", "min_frames", "max_frames", "max_video_tokens", "cap_pixels_per_frame")}
    system, turns = PUBLISHED[family]
    before, after = turns.split("{}")
    texts = "{% if c['type'] == 'text' %}{{ c['text'] }}"
    visuals = "{% else %}<|vision_start|><|{{ c['type'] }}_pad|><|vision_end|>{% endif %}"
    parts = f"{{% for c in m['content'] %}}{texts}{visuals}{{% endfor %}}"
    template = f"{_literal(system)}{{% for m in messages %}}{_literal(before)}{parts}{{% endfor %}}{_literal(after)}"
    for name, text in (
        ("preprocessor_config.json", json.dumps(picture, indent=2)),
        ("video_preprocessor_config.json", json.dumps(video, indent=2)),
        ("chat_template.jinja", template),
    ):
        (folder / name).write_text(text + ("" if name.endswith("jinja") else "\n"), encoding="utf-8")


def _literal(text: str) -> str:
    """A Jinja expression that prints `text`; a template's own line breaks may be trimmed."""
    return "{{ " + json.dumps(text) + " }}" if text else ""


def main(arguments: list[str] | None = None) -> int:
    """Writes a backbone folder in random weights."""
    parser = argparse.ArgumentParser(prog="python -m lame_training.sample_backbone", description=main.__doc__)
    parser.add_argument("family", help=", ".join(TINY))
    parser.add_argument("folder", type=path)
    parser.add_argument("--size", default="tiny", help="tiny, 2b, 3b, 7b or 8b")
    parser.set_defaults(run=_write)
    return run_command(parser, arguments, "the folder is incomplete; remove it")


def _write(options: argparse.Namespace) -> int:
    write_sample(options.family, options.folder, options.size, dtype=torch.float32 if options.size == "tiny" else torch.float16)
    print(f"wrote {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
