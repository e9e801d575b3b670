"""Writes a checkpoint as a Sentence Transformers folder, of its own modules alone.

The latent tokens become special tokens that the chat template prints after every prompt, so that
the last token is [EMBED], which `Pooling` takes. The files are those of Sentence Transformers 6.2
and transformers 5.23.
"""

from __future__ import annotations

import json
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
from lame_training.published.folder_kind import MODULES
from lame_training.published.writing.latent_tokens import (
    latent_names,
    widened_table,
    with_latent_tokens,
)
from lame_training.published.writing.layout_template import layout_template

_PROCESSORS = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
_MODULE = {
    "": "sentence_transformers.base.modules.transformer.Transformer",
    "1_Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "2_Dense": "sentence_transformers.base.modules.dense.Dense",
    "3_Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
"""Classes of the modules by their folder."""
_ACTIVATIONS = {
    False: "torch.nn.modules.linear.Identity",
    True: "torch.nn.modules.activation.Tanh",
}
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


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
        template = layout_template(contract.prompt, names)
        (fresh / "chat_template.jinja").write_text(template, encoding="utf-8")
        _write_processor(fresh, contract)
        modules = dict(_MODULE)
        _write(fresh / "1_Pooling/config.json", _pooling(width))
        if isinstance(model.head, nn.Identity):
            del modules["2_Dense"]
        else:
            _write_dense(fresh / "2_Dense", model.head)
        _write(fresh / "3_Normalize/config.json", {})
        _write(
            fresh / MODULES,
            [
                {"idx": number, "name": str(number), "path": path, "type": kind}
                for number, (path, kind) in enumerate(modules.items())
            ],
        )
        _write(fresh / "config_sentence_transformers.json", _settings(contract))
        _write(fresh / "sentence_bert_config.json", _options())


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
    _write(folder / "config.json", config)
    write_weights(folder / "model.safetensors", weights)


def _write_processor(folder: Path, contract: Contract) -> None:
    """Writes the settings of tokenizer and processors."""
    name = _PROCESSORS[contract.family]
    # Qwen2.5-VL has no video processor of its own
    videos = "Qwen3VL" if contract.family == "qwen3_vl" else "Qwen2VL"
    sampling = ("fps", "min_frames", "max_frames", "max_video_tokens", "cap_pixels_per_frame")
    rules = {key: getattr(contract.videos, key) for key in sampling}
    geometry = {
        key: getattr(contract.images, key)
        for key in ("patch_size", "temporal_patch_size", "merge_size")
    }
    processor = {
        "processor_class": f"{name}Processor",
        "image_processor": {
            "image_processor_type": "Qwen2VLImageProcessor",
            **geometry,
            **_pixels(contract.images),
        },
        "video_processor": {
            "video_processor_type": f"{videos}VideoProcessor",
            **geometry,
            **_pixels(contract.videos),
            **rules,
        },
    }
    _write(folder / "processor_config.json", processor)
    tokenizer = {
        "tokenizer_class": "TokenizersBackend",
        "processor_class": f"{name}Processor",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    _write(folder / "tokenizer_config.json", tokenizer)


def _pixels(rules: ImageRules | VideoRules) -> dict[str, Any]:
    # despite their names, these two are numbers of pixels
    size = {"shortest_edge": rules.min_pixels, "longest_edge": rules.max_pixels}
    return {"size": size, "image_mean": list(rules.mean), "image_std": list(rules.std)}


def _pooling(width: int) -> dict[str, Any]:
    return {"embedding_dimension": width, "pooling_mode": "lasttoken", "include_prompt": True}


def _settings(contract: Contract) -> dict[str, Any]:
    return {
        "model_type": "SentenceTransformer",
        "prompts": contract.prompt.roles,
        "default_prompt_name": contract.prompt.default_role,
        "similarity_fn_name": "cosine",
    }


def _options() -> dict[str, Any]:
    # Without a longest input: cutting a prompt would cut [EMBED].
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {
            **dict.fromkeys(("text", "image", "video"), _FORWARD),
            "message": {**_FORWARD, "format": "structured"},
        },
        "module_output_name": "token_embeddings",
    }


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
