"""The three families of backbones, and how a local `save_pretrained` folder of one of them is read.

The folder alone decides: `model_type` in its `config.json` names the family. Only safetensors are read, no code
of the folder is ever run, and nothing is downloaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lame_runtime.errors import InputError
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLModel,
    Qwen2VLConfig,
    Qwen2VLModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLModel,
)
from transformers.utils import logging


@dataclass(frozen=True)
class Family:
    """transformers' classes of one family, without the language-model head."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]


FAMILIES = {
    "qwen2_vl": Family(Qwen2VLConfig, Qwen2VLModel),
    "qwen2_5_vl": Family(Qwen2_5_VLConfig, Qwen2_5_VLModel),
    "qwen3_vl": Family(Qwen3VLConfig, Qwen3VLModel),
}
HEADS = ("lm_head.",)
"""Weights a folder may hold that an embedder has no use for."""


def family_of(config: PreTrainedConfig) -> str:
    """The family's name: transformers' `model_type`."""
    return str(config.model_type)


def deepstack_levels(config: PreTrainedConfig) -> int:
    """How many blocks of the language model add vision features of their own: Qwen3-VL's deepstack, 0 elsewhere."""
    return len(getattr(config.vision_config, "deepstack_visual_indexes", ()))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a backbone folder, empty where there is no such file; raises `InputError`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy the folder again") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, not a JSON object; copy the folder again")
    return found


def read_config(folder: Path) -> PreTrainedConfig:
    """The backbone's config.

    Raises:
        InputError: no such folder, no `config.json`, or a family that is not supported.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: has no config.json; --backbone takes a folder that save_pretrained wrote")
    raw = read_json(folder / "config.json")
    kind = raw.get("model_type")
    if kind not in FAMILIES:
        raise InputError(f"{folder}: model_type is {kind!r}; supported are {', '.join(FAMILIES)}")
    try:
        return FAMILIES[kind].config(**raw)
    except Exception as error:  # configs are validated by several libraries, each with its own exceptions
        raise InputError(f"{folder / 'config.json'}: not a config of {kind} ({first_line(error)})") from None


def load_backbone(folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """The backbone with its weights.

    Args:
        folder: what `save_pretrained` wrote; a PEFT adapter's folder is merged into the local base it names.
        dtype: of the weights; "auto" keeps the folder's.

    Raises:
        InputError: unsupported, no safetensors, or weights that are missing, left over or of another shape.
    """
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        from lame_training.adapters import merge_adapter

        return merge_adapter(load_backbone(base_of_adapter(folder), dtype), folder)
    config = read_config(folder)
    return _load(FAMILIES[family_of(config)].model, config, folder, dtype)


def base_of_adapter(folder: Path) -> Path:
    """The base a PEFT adapter names, which must be a local folder; raises `InputError`."""
    named = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    for base in (folder / str(named), Path(str(named))):
        if (base / "config.json").is_file():
            return base
    raise InputError(f"{folder}: its adapter_config.json names the base {named!r}, which is no local folder; set it to one")


def config_folder(folder: Path) -> Path:
    """Where config, tokenizer and processor files lie: the folder itself, or the base of an adapter."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return base_of_adapter(folder)
    return folder


def load_decoder(folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """A latent decoder (`Qwen3ForCausalLM`, such as Qwen3-0.6B) with its weights; raises `InputError`."""
    return _load(Qwen3ForCausalLM, read_decoder_config(folder), folder, dtype)


def read_decoder_config(folder: Path) -> Qwen3Config:
    """A latent decoder's config; raises `InputError`."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: has no config.json; --decoder takes a folder that save_pretrained wrote")
    raw = read_json(folder / "config.json")
    if raw.get("model_type") != "qwen3":
        raise InputError(f"{folder}: model_type is {raw.get('model_type')!r}; a latent decoder is a qwen3 model, such as Qwen3-0.6B")
    try:
        return Qwen3Config(**raw)
    except Exception as error:  # see read_config
        raise InputError(f"{folder / 'config.json'}: not a config of qwen3 ({first_line(error)})") from None


def _load(kind: type[PreTrainedModel], config: PreTrainedConfig, folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    if not list(folder.glob("*.safetensors")):
        found = "pickled weights, which are never loaded" if list(folder.glob("*.bin")) else "no weights"
        raise InputError(f"{folder}: holds {found}; save the model as safetensors (save_pretrained does)")
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its report of keys is judged below
    logging.disable_progress_bar()
    try:
        model, report = kind.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # from_pretrained raises what a dozen libraries raise
        raise InputError(f"{folder}: its weights cannot be read ({first_line(error)}); copy the folder again") from None
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
    for kind_of_fault, keys in (
        ("lacks the weight", report["missing_keys"]),
        ("holds the unknown weight", [key for key in report["unexpected_keys"] if not key.startswith(HEADS)]),
        ("holds, in another shape, the weight", [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]),
    ):
        if keys:
            raise InputError(f"{folder}: {kind_of_fault} {sorted(keys)[0]} ({len(keys)} in all); its config.json belongs to another model")
    return model


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
