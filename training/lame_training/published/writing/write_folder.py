"""Writes a checkpoint as a Sentence Transformers folder, of its own modules alone.

The latent tokens become special tokens that the chat template prints after every prompt, so that
the last token is [EMBED], which `Pooling` takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lame_runtime.contract import Contract, ImageRules, VideoRules
from lame_runtime.errors import BundleError
from lame_runtime.files.atomic import atomic_folder, require_new
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular
from torch import nn

from lame_training.model.checkpoint import load_model, write_weights
from lame_training.model.components import DenseHead
from lame_training.model.lame import LaMEModel
from lame_training.published.writing.latent_tokens import (
    latent_names,
    widened_table,
    with_latent_tokens,
)
from lame_training.published.writing.layout_template import layout_template
from lame_training.published.writing.module_files import (
    write_json,
    write_modules,
    write_processor,
    write_settings,
)

_ACTIVATIONS = {
    False: "torch.nn.modules.linear.Identity",
    True: "torch.nn.modules.activation.Tanh",
}


def write_sentence_transformers(checkpoint: Path, folder: Path) -> None:
    """Writes a checkpoint as a folder that `SentenceTransformer(folder)` loads without custom code.

    The weights keep the type that they are stored in; the head is stored in FP32.

    Args:
        checkpoint: a checkpoint of `lame-train run`.
        folder: the folder to write; it must not exist.

    Raises:
        BundleError: the checkpoint cannot be read, or Sentence Transformers' own modules cannot
            compute what its model does; the message says what that is.
        StorageError: the folder exists, or cannot be written.
    """
    # early, because reading a large model takes minutes
    require_new(folder)
    model, preparer = load_model(checkpoint, dtype=None, decoder=False)
    contract = preparer.contract
    _check_model(model, contract, checkpoint)
    size = preparer.tokenizer.size
    names = latent_names(model.n_reason)
    tokenizer = read_regular(checkpoint / "tokenizer.json", MAX_JSON_BYTES)
    width = int(model.backbone.config.text_config.hidden_size)
    with atomic_folder(folder) as fresh:
        _widen(model, size)
        model.backbone.save_pretrained(fresh)
        (fresh / "tokenizer.json").write_text(
            with_latent_tokens(tokenizer, size, names), encoding="utf-8"
        )
        images, videos = processor_rules(contract)
        template = layout_template(contract.prompt, names)
        write_processor(fresh, contract.family, images, videos, template)
        write_settings(fresh, width, contract.prompt.roles, contract.prompt.default_role, {})
        write_json(fresh / "3_Normalize/config.json", {})
        if isinstance(model.head, nn.Identity):
            write_modules(fresh, "1_Pooling", "3_Normalize")
        else:
            _write_dense(fresh / "2_Dense", model.head)
            write_modules(fresh, "1_Pooling", "2_Dense", "3_Normalize")


def _check_model(model: LaMEModel, contract: Contract, checkpoint: Path) -> None:
    """Raises `BundleError` if the model does what no module of Sentence Transformers does."""
    layout = contract.prompt
    problems = {
        "is an imported embedder: use the folder that it was imported from": (
            not contract.tokens.has_embed
        ),
        f"pools {model.pooling!r}, and `Pooling` takes the last token": model.pooling != "embed",
        "hides the prompt from [EMBED] (`embed_attends`), and a module attends to all tokens": (
            model.embed_attends != "everything"
        ),
        "has the layout of a published embedder": layout.as_given or bool(layout.system_open),
    }
    for problem, applies in problems.items():
        if applies:
            raise BundleError(
                f"{checkpoint}: {problem}; Sentence Transformers cannot load it without custom code"
            )


@torch.no_grad()
def _widen(model: LaMEModel, size: int) -> None:
    """Puts the latent rows into the table of embeddings of the backbone."""
    table = model.backbone.get_input_embeddings()
    latents = torch.cat([model.reason_KD, model.embed_1D])
    wider = widened_table(table.weight, latents, size)
    table.weight = nn.Parameter(wider, requires_grad=False)
    table.num_embeddings = len(wider)
    model.backbone.config.text_config.vocab_size = len(wider)


def _write_dense(folder: Path, head: nn.Module) -> None:
    """Writes the head as a `Dense` module."""
    is_dense = isinstance(head, DenseHead)
    linear = head.linear if isinstance(head, DenseHead) else head
    weights = {f"linear.{name}": value.float() for name, value in linear.named_parameters()}
    out, width = weights["linear.weight"].shape
    config = {
        "in_features": width,
        "out_features": out,
        "bias": is_dense,
        "activation_function": _ACTIVATIONS[isinstance(head, DenseHead) and head.tanh],
    }
    write_json(folder / "config.json", config)
    write_weights(folder / "model.safetensors", weights)


def processor_rules(contract: Contract) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings of pictures and videos, as processors of transformers have them."""
    geometry = {
        key: getattr(contract.images, key)
        for key in ("patch_size", "temporal_patch_size", "merge_size")
    }
    sampling = {
        key: getattr(contract.videos, key)
        for key in ("fps", "min_frames", "max_frames", "max_video_tokens", "cap_pixels_per_frame")
    }
    images, videos = _pixels(contract.images), _pixels(contract.videos)
    return {**geometry, **images}, {**geometry, **videos, **sampling}


def _pixels(rules: ImageRules | VideoRules) -> dict[str, Any]:
    # despite their names, these two are numbers of pixels
    size = {"shortest_edge": rules.min_pixels, "longest_edge": rules.max_pixels}
    return {"size": size, "image_mean": list(rules.mean), "image_std": list(rules.std)}
