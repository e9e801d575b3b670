"""The files of a Sentence Transformers folder, as version 6.2 and transformers 5.23 write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lame_training.published.folder_kind import MODULES

_PROCESSORS = {
    "qwen2_vl": "Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3VL",
    "qwen3_vl_moe": "Qwen3VL",
}
_PACKAGE = "sentence_transformers"
_TRANSFORMER = f"{_PACKAGE}.base.modules.transformer.Transformer"
_CLASSES = {
    "Pooling": f"{_PACKAGE}.sentence_transformer.modules.pooling.Pooling",
    "Dense": f"{_PACKAGE}.base.modules.dense.Dense",
    "Normalize": f"{_PACKAGE}.base.modules.normalize.Normalize",
}
"""Classes of the modules after the backbone, by the name in their folder, such as `1_Pooling`."""
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


def write_modules(folder: Path, *modules: str) -> None:
    """Writes the list of modules, whose first is the backbone in the folder itself.

    Args:
        folder: the folder of the model.
        modules: folders of the modules that follow, in order.
    """
    kinds = {"": _TRANSFORMER, **{path: _CLASSES[path.partition("_")[2]] for path in modules}}
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / MODULES, listed)


def write_settings(
    folder: Path, width: int, roles: dict[str, str], default: str | None, template: dict[str, Any]
) -> None:
    """Writes prompts, the pooling of the last token, and how inputs become messages.

    Args:
        folder: the folder of the model.
        width: width of the backbone.
        roles: instruction of each role.
        default: role of inputs that are embedded without one.
        template: variables that the chat template is rendered with.
    """
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": roles,
        "default_prompt_name": default,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", settings)
    pooling = {"embedding_dimension": width, "pooling_mode": "lasttoken"}
    write_json(folder / "1_Pooling/config.json", pooling)
    # without a longest input: cutting a prompt would cut the token that is pooled
    options = {
        "transformer_task": "feature-extraction",
        "modality_config": {
            **dict.fromkeys(("text", "image", "video"), _FORWARD),
            "message": {**_FORWARD, "format": "structured"},
        },
        "module_output_name": "token_embeddings",
    }
    if template:
        options["processing_kwargs"] = {"chat_template": template}
    write_json(folder / "sentence_bert_config.json", options)


def write_processor(
    folder: Path, family: str, images: dict[str, Any], videos: dict[str, Any], template: str
) -> None:
    """Writes the settings of tokenizer and processors, and the chat template.

    Args:
        folder: the folder of the backbone.
        family: the backbone's family.
        images: settings of pictures.
        videos: settings of videos.
        template: Jinja source.
    """
    name = _PROCESSORS[family]
    # Qwen2.5-VL has no video processor of its own
    kind = "Qwen3VL" if name == "Qwen3VL" else "Qwen2VL"
    processor = {
        "processor_class": f"{name}Processor",
        "image_processor": {"image_processor_type": "Qwen2VLImageProcessor", **images},
        "video_processor": {"video_processor_type": f"{kind}VideoProcessor", **videos},
    }
    write_json(folder / "processor_config.json", processor)
    tokenizer = {
        "tokenizer_class": "TokenizersBackend",
        "processor_class": f"{name}Processor",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    write_json(folder / "tokenizer_config.json", tokenizer)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, and the file's folder if there is none."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
