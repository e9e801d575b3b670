"""`lame-train sample-backbone`: writes a backbone's folder in random weights."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli.grammar import add_command, path

EXAMPLE = """
lame-train sample-backbone qwen3_vl runs/backbone
lame-train sample-backbone qwen2_vl runs/2b --size 2b
lame-train sample-backbone qwen3_vl runs/embedder --embedder
"""


def add(commands: Any) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "sample-backbone",
        "write a backbone's folder in random weights, as save_pretrained and a processor write it",
        _sample_backbone,
        EXAMPLE,
    )
    parser.add_argument(
        "family",
        choices=["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"],
        help="family of the backbone",
    )
    parser.add_argument("folder", type=path, help="folder to write; it must be empty or missing")
    parser.add_argument(
        "--size",
        default="tiny",
        # not every family has every size; the library's error lists the pairs
        choices=["tiny", "2b", "3b", "7b", "8b"],
        help="tiny has a few hundred thousand parameters, in FP32; the others are the published "
        "shapes, in FP16, and each family has some of them",
    )
    parser.add_argument(
        "--embedder",
        action="store_true",
        help="write a published embedder instead: a Sentence Transformers folder",
    )


def _sample_backbone(options: argparse.Namespace) -> int:
    import torch

    from lame_training.fixtures.sample_backbone import write_sample
    from lame_training.published.sample_embedder import write_sample_embedder

    # like the published folders in half precision, but tests compare a tiny one's values in FP32
    dtype = torch.float32 if options.size == "tiny" else torch.float16
    write = write_sample_embedder if options.embedder else write_sample
    write(options.family, options.folder, options.size, dtype=dtype)
    print(f"wrote {options.folder}")
    return 0
