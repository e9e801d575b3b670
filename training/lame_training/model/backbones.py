"""The supported Qwen-VL families; loads backbones and latent decoders from local folders.

A folder is what `save_pretrained` wrote. `model_type` in its `config.json` names the family. Only
safetensors are read, no code of the folder is ever run, and nothing is downloaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lame_runtime.errors import BundleError, first_line
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

from lame_training.model.adapters import merge_adapter


@dataclass(frozen=True)
class Family:
    """The transformers classes of one family; the model class has no language-model head."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]


# Classes are looked up here and not through AutoModel, which can run code that a folder brings.
FAMILIES = {
    "qwen2_vl": Family(Qwen2VLConfig, Qwen2VLModel),
    "qwen2_5_vl": Family(Qwen2_5_VLConfig, Qwen2_5_VLModel),
    "qwen3_vl": Family(Qwen3VLConfig, Qwen3VLModel),
}
HEADS = ("lm_head.",)
"""Prefixes of weights that published folders hold and that an embedder does not need."""


def family_of(config: PreTrainedConfig) -> str:
    """Returns the family's name, which is transformers' `model_type`."""
    return str(config.model_type)


def deepstack_levels(config: PreTrainedConfig) -> int:
    """Returns how many vision layers feed the language model directly.

    Qwen3-VL adds the features of these layers to the hidden states of its first blocks (DeepStack,
    arXiv 2406.04334); the other families have none.
    """
    return len(getattr(config.vision_config, "deepstack_visual_indexes", ()))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object of a backbone folder; returns an empty one if there is no such file.

    Raises:
        BundleError: the file cannot be read, or holds something other than a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # ValueError stands for invalid UTF-8 or invalid JSON, RecursionError for JSON that is nested
    # too deeply
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); copy the folder again") from None
    if not isinstance(content, dict):
        raise BundleError(
            f"{path}: holds a {type(content).__name__}, not a JSON object; copy the folder again"
        )
    return content


def read_config(folder: Path) -> PreTrainedConfig:
    """Reads the config of a backbone.

    Raises:
        BundleError: there is no such folder or `config.json`, or the family is not supported.
    """
    if not (folder / "config.json").is_file():
        raise BundleError(
            f"{folder}: has no config.json; `backbone` takes a folder that save_pretrained wrote"
        )
    raw = read_json(folder / "config.json")
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise BundleError(
            f"{folder}: model_type is {family!r}; supported are {', '.join(FAMILIES)}"
        )
    return _parse_config(FAMILIES[family].config, family, raw, folder)


def read_decoder_config(folder: Path) -> Qwen3Config:
    """Reads the config of a latent decoder, a Qwen3 language model.

    Raises:
        BundleError: there is no such folder or `config.json`, or the model is not a Qwen3.
    """
    if not (folder / "config.json").is_file():
        raise BundleError(
            f"{folder}: has no config.json; `decoder` takes a folder that save_pretrained wrote"
        )
    raw = read_json(folder / "config.json")
    if raw.get("model_type") != "qwen3":
        raise BundleError(
            f"{folder}: model_type is {raw.get('model_type')!r}; "
            "a latent decoder is a qwen3 model, such as Qwen3-0.6B"
        )
    return _parse_config(Qwen3Config, "qwen3", raw, folder)


def _parse_config(
    config_class: type[PreTrainedConfig], name: str, raw: dict[str, Any], folder: Path
) -> PreTrainedConfig:
    """Builds a config from its JSON object; raises `BundleError`."""
    try:
        return config_class(**raw)
    # several libraries validate configs, each with its own exceptions
    except Exception as error:
        raise BundleError(
            f"{folder / 'config.json'}: not a config of {name} ({first_line(error)})"
        ) from None


def load_backbone(folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """Loads a backbone with its weights.

    Args:
        folder: a `save_pretrained` folder, or the folder of a PEFT adapter, which is merged into
            the local base model that it names.
        dtype: the type of the weights; "auto" keeps the type they are stored in.

    Raises:
        BundleError: the family is not supported, there are no safetensors, or weights are missing,
            left over, or of another shape than the config says.
    """
    if _is_adapter_folder(folder):
        return merge_adapter(load_backbone(_base_of_adapter(folder), dtype), folder)
    config = read_config(folder)
    return _load(FAMILIES[family_of(config)].model, config, folder, dtype)


def load_decoder(folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """Loads a latent decoder (`Qwen3ForCausalLM`, such as Qwen3-0.6B) with its weights.

    Raises:
        BundleError: as in `load_backbone`.
    """
    # unlike a backbone, the decoder keeps its head: L_rec is computed from logits
    return _load(Qwen3ForCausalLM, read_decoder_config(folder), folder, dtype)


def _is_adapter_folder(folder: Path) -> bool:
    """Returns whether the folder holds a PEFT adapter and no model of its own."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _base_of_adapter(folder: Path) -> Path:
    """Returns the folder of the base model that a PEFT adapter names.

    Raises:
        BundleError: the name is not a local folder. PEFT would download the model from the hub.
    """
    name = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    # PEFT records the path that training was given, which may be relative; one that is relative to
    # the adapter survives when both folders are moved
    for base in (folder / str(name), Path(str(name))):
        if (base / "config.json").is_file():
            return base
    raise BundleError(
        f"{folder}: its adapter_config.json names the base {name!r}, which is no local folder; "
        "write the path of one there"
    )


def config_folder(folder: Path) -> Path:
    """Returns the folder of the config, tokenizer and processor files.

    This is `folder` itself, or the base model's folder if `folder` holds an adapter, because PEFT
    saves none of these files beside one. Raises `BundleError` if the base is no local folder.
    """
    return _base_of_adapter(folder) if _is_adapter_folder(folder) else folder


def _load(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    folder: Path,
    dtype: torch.dtype | str,
) -> PreTrainedModel:
    """Loads a model from safetensors; raises `BundleError` unless all weights fit its config."""
    if not list(folder.glob("*.safetensors")):
        # unpickling runs whatever code the file holds
        content = (
            "pickled weights, which are never loaded"
            if list(folder.glob("*.bin"))
            else "no weights"
        )
        raise BundleError(
            f"{folder}: holds {content}; save the model as safetensors (save_pretrained does)"
        )
    verbosity, progress_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    # transformers logs missing and unexpected weights and goes on with random ones; its report is
    # checked below instead
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # from_pretrained raises what a dozen libraries raise
        raise BundleError(
            f"{folder}: its weights cannot be read ({first_line(error)}); copy the folder again"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()
    unexpected = [key for key in report["unexpected_keys"] if not key.startswith(HEADS)]
    # an entry of mismatched_keys is a name, or a name with the two shapes
    mismatched = [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]
    for fault, names in (
        ("lacks the weight", report["missing_keys"]),
        ("holds the unknown weight", unexpected),
        ("holds, in another shape, the weight", mismatched),
    ):
        if names:
            raise BundleError(
                f"{folder}: {fault} {sorted(names)[0]} ({len(names)} in all); "
                "its config.json belongs to another model"
            )
    return model
