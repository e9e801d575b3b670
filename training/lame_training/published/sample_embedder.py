"""A published embedder with random weights: a Sentence Transformers folder, written without it.

The files are those that Sentence Transformers 6.2 and transformers 5.23 write for a model of last
token pooling and unit vectors, such as Qwen3-VL-Embedding. Both libraries load the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lame_runtime.files.atomic import atomic_folder

from lame_training.fixtures.sample_backbone import write_sample
from lame_training.model.from_disk.tensors import read_object
from lame_training.published.folder_kind import MODULES

INSTRUCTION = "Represent the user's input."
"""The instruction of both roles, which is the default of Qwen3-VL-Embedding."""
_PROCESSORS = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
_TEMPLATE = """\
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\\n' }}
{%- for c in m['content'] %}
{%- if c['type'] == 'text' %}{{- c['text'] }}
{%- else %}{{- '<|vision_start|><|' + c['type'] + '_pad|><|vision_end|>' }}
{%- endif %}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


def write_sample_embedder(
    family: str, folder: Path, size: str = "tiny", *, dtype: torch.dtype = torch.float32
) -> None:
    """Writes a Sentence Transformers folder of a Qwen-VL embedder.

    Args:
        family: "qwen2_vl", "qwen2_5_vl" or "qwen3_vl".
        folder: the folder to write; it must not exist.
        size: "tiny", or a size of the family, see `sample_backbone`.
        dtype: the type of the weights.

    Raises:
        StorageError: the folder exists, or cannot be written.
        UsageError: the family or the size is unknown.
    """
    with atomic_folder(folder) as fresh:
        write_sample(family, fresh, size, dtype=dtype)
        width = read_object(fresh / "config.json")["text_config"]["hidden_size"]
        _write_processor(family, fresh)
        package = "sentence_transformers"
        modules = {
            "": f"{package}.base.modules.transformer.Transformer",
            "1_Pooling": f"{package}.sentence_transformer.modules.pooling.Pooling",
            "2_Normalize": f"{package}.base.modules.normalize.Normalize",
        }
        listed = [
            {"idx": number, "name": str(number), "path": path, "type": kind}
            for number, (path, kind) in enumerate(modules.items())
        ]
        _write(fresh / MODULES, listed)
        pooling = {"embedding_dimension": width, "pooling_mode": "lasttoken"}
        _write(fresh / "1_Pooling/config.json", pooling)
        _write(fresh / "2_Normalize/config.json", {})
        prompts = {"query": INSTRUCTION, "document": INSTRUCTION}
        settings = {
            "model_type": "SentenceTransformer",
            "prompts": prompts,
            "default_prompt_name": "document",
            "similarity_fn_name": "cosine",
        }
        _write(fresh / "config_sentence_transformers.json", settings)
        options = {
            "transformer_task": "feature-extraction",
            "modality_config": {
                **dict.fromkeys(("text", "image", "video"), _FORWARD),
                "message": {**_FORWARD, "format": "structured"},
            },
            "module_output_name": "token_embeddings",
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
        }
        _write(fresh / "sentence_bert_config.json", options)


def _write_processor(family: str, folder: Path) -> None:
    """Replaces the files of the sample's processor by those that transformers 5 loads."""
    images = read_object(folder / "preprocessor_config.json")
    videos = read_object(folder / "video_preprocessor_config.json")
    name = _PROCESSORS[family]
    kind = "Qwen3VL" if family == "qwen3_vl" else "Qwen2VL"
    processor = {
        "processor_class": f"{name}Processor",
        "image_processor": {"image_processor_type": "Qwen2VLImageProcessor", **images},
        "video_processor": {"video_processor_type": f"{kind}VideoProcessor", **videos},
    }
    _write(folder / "processor_config.json", processor)
    for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (folder / file).unlink()
    tokenizer = {
        "tokenizer_class": "TokenizersBackend",
        "processor_class": f"{name}Processor",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    _write(folder / "tokenizer_config.json", tokenizer)
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
