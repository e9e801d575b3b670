"""Writes one random Qwen3-VL twice: as a LaME bundle and as a Sentence Transformers folder.

The LaME model has no reason tokens (K = 0), so that all sides compute the same vector: the final
hidden state of [EMBED], which the other sides know as a token of their tokenizer.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

EMBED = "<|embed|>"
"""Token that stands for [EMBED] in the tokenizer of the other sides."""
GRAPHS = {"115m": ("fp32", "fp32-cpu", "int8-cpu"), "tiny": ("fp32", "fp32-cpu")}
"""Graphs of the bundle, by size; INT8 does not pass the gates on the tiny random model."""
MAX_PIXELS = 1 << 19
THREADS = 2
BUNDLE, MODEL_FOLDER = "bundle", "sentence-transformers"
"""Names of the two folders."""


def import_torch() -> Any:
    """Returns PyTorch with two threads; makes torchvision importable for the processors."""
    import torch

    torch.set_num_threads(THREADS)
    sys.path.append(str(Path(__file__).parents[3] / "tests"))
    import oracle

    oracle.prepare()
    return torch


def write_models(folder: Path, size: str) -> None:
    """Writes `folder/bundle` and `folder/sentence-transformers`."""
    # before anything that imports transformers
    import_torch()
    from lame_export import export

    _write_checkpoint(folder, size)
    # the exporter needs data for calibration; its content does not affect speed
    command = [sys.executable, "-m", "lame_training", "digits", str(folder / "data"), "--tiny"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    paths = folder / "checkpoint", folder / BUNDLE, folder / "data"
    export(*paths, GRAPHS[size], per_modality=2, calibration=16, strengths=[0.5])
    _write_folder(folder)


def _write_checkpoint(folder: Path, size: str) -> None:
    import torch
    from lame_training.contract_from.budget import Budget
    from lame_training.fixtures import sample_backbone
    from lame_training.model.published_shapes import ROPE
    from lame_training.recipes.catalog import find_recipe
    from lame_training.run.initialization import initialize

    if size == "115m":
        sample_backbone.SHAPES["qwen3_vl", size] = _shape(ROPE)
    sample_backbone.write_sample("qwen3_vl", folder / "backbone", size, dtype=torch.float32)
    config = json.loads((folder / "backbone/config.json").read_text())
    budget = Budget(max_length=512, max_pixels=MAX_PIXELS, max_frames=16, visuals=8)
    recipe = dataclasses.replace(
        find_recipe("lame-qwen3-vl-8b"),
        decoder=None,
        n_reason=0,
        dim=config["text_config"]["hidden_size"],
        budget=budget,
    )
    initialize(recipe, folder / "checkpoint", folder / "backbone")


def _shape(rope: dict[str, Any]) -> dict[str, Any]:
    # the initializer range is small, so that activations stay in their usual range
    text = {
        "hidden_size": 640,
        "intermediate_size": 1920,
        "num_hidden_layers": 12,
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
        "head_dim": 64,
        "initializer_range": 0.02,
        "rope_parameters": {**rope, "mrope_section": [16, 8, 8], "mrope_interleaved": True},
    }
    vision = {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "depth": 10,
        "num_heads": 8,
        "patch_size": 16,
        "out_hidden_size": 640,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [2, 5, 8],
        "initializer_range": 0.02,
    }
    return {"text_config": text, "vision_config": vision}


def _write_folder(folder: Path) -> None:
    """Writes the folder that a user of Sentence Transformers would download."""
    import torch
    from lame_training.model.checkpoint import load_model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLImageProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    model, preparer = load_model(folder / "checkpoint")
    source, target = folder / "backbone", folder / "transformers"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"), pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [EMBED]})
    embed_id = tokenizer.convert_tokens_to_ids(EMBED)
    with torch.no_grad():
        backbone = model.backbone
        backbone.resize_token_embeddings(
            max(embed_id + 1, len(backbone.get_input_embeddings().weight))
        )
        backbone.get_input_embeddings().weight[embed_id] = model.embed_1D[0]
    backbone.save_pretrained(target)
    pixels = {"shortest_edge": preparer.contract.images.min_pixels, "longest_edge": MAX_PIXELS}
    Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor.from_pretrained(source, size=pixels),
        video_processor=Qwen3VLVideoProcessor.from_pretrained(source),
        tokenizer=tokenizer,
        # every prompt ends with [EMBED]
        chat_template=(source / "chat_template.jinja").read_text(encoding="utf-8") + EMBED,
    ).save_pretrained(target)
    modules = [
        Transformer(str(target)),
        Pooling(preparer.contract.dim, "lasttoken"),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / MODEL_FOLDER))
    shutil.rmtree(target)
