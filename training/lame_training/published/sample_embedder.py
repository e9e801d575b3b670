"""A published embedder with random weights: a Sentence Transformers folder, written without it.

The files are those that Sentence Transformers 6.2 and transformers 5.23 write for a model of last
token pooling and unit vectors, such as Qwen3-VL-Embedding. Both libraries load the folder.
"""

from __future__ import annotations

from pathlib import Path

import torch
from lame_runtime.files.atomic import atomic_folder

from lame_training.fixtures.sample_backbone import write_sample
from lame_training.model.from_disk.tensors import read_object
from lame_training.published.writing.module_files import (
    write_json,
    write_modules,
    write_processor,
    write_settings,
)

INSTRUCTION = "Represent the user's input."
"""The instruction of both roles, which is the default of Qwen3-VL-Embedding."""
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


def write_sample_embedder(
    family: str, folder: Path, size: str = "tiny", *, dtype: torch.dtype = torch.float32
) -> None:
    """Writes a Sentence Transformers folder of a Qwen-VL embedder.

    Args:
        family: a key of `backbones.FAMILIES`.
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
        # the sample has the files of older versions
        files = ("preprocessor_config.json", "video_preprocessor_config.json")
        images, videos = (read_object(fresh / name) for name in files)
        for name in files:
            (fresh / name).unlink()
        write_processor(fresh, family, images, videos, _TEMPLATE)
        roles = {"query": INSTRUCTION, "document": INSTRUCTION}
        write_settings(fresh, width, roles, "document", {"add_generation_prompt": True})
        write_json(fresh / "2_Normalize/config.json", {})
        write_modules(fresh, "1_Pooling", "2_Normalize")
