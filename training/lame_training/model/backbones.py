"""The supported Qwen-VL families; loads backbones and latent decoders from local folders.

A folder is what `save_pretrained` wrote. `model_type` in its `config.json` names the family. Only
safetensors are read, no code of the folder is ever run, and nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lame_runtime.errors import BundleError, first_line, shown
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
    Qwen3VLMoeConfig,
    Qwen3VLMoeModel,
)
from transformers.utils import logging

from lame_training.model.from_disk.config_fields import model_fields, text_fields
from lame_training.model.from_disk.config_relations import check_model, check_text
from lame_training.model.from_disk.merging.adapter_merge import merge_adapter
from lame_training.model.from_disk.merging.adapter_settings import CONFIG as ADAPTER_CONFIG
from lame_training.model.from_disk.tensors import check_finite, read_folder_tensors, read_object


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
    "qwen3_vl_moe": Family(Qwen3VLMoeConfig, Qwen3VLMoeModel),
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


def read_config(folder: Path) -> PreTrainedConfig:
    """Reads the config of a backbone.

    Raises:
        BundleError: there is no such folder or `config.json`, the family is not supported, or a
            setting is out of its range or contradicts another one; the message names it.
    """
    return parse_config(_read_raw(folder, "backbone"), folder / "config.json")


def parse_config(raw: dict[str, Any], where: Path | str) -> PreTrainedConfig:
    """Builds the config of a backbone from its JSON object.

    Args:
        raw: the object; only the settings of `from_disk.config_fields` are read.
        where: begins the messages of errors.

    Raises:
        BundleError: as `read_config`.
    """
    family = raw.get("model_type")
    if family is None and isinstance(raw.get("backbone"), dict):
        raise BundleError(
            f"{where}: describes a checkpoint that lame-train wrote, not a backbone; "
            "give the folder of the backbone that it was trained from"
        )
    if not isinstance(family, str) or family not in FAMILIES:
        raise BundleError(
            f"{where}: model_type is {shown(repr(family))}; supported are {', '.join(FAMILIES)}"
        )
    config = _build(FAMILIES[family].config, family, model_fields(raw, str(where)), where)
    check_model(config, str(where))
    return config


def read_decoder_config(folder: Path) -> Qwen3Config:
    """Reads the config of a latent decoder, a Qwen3 language model.

    Raises:
        BundleError: there is no such folder or `config.json`, the model is not a Qwen3, or a
            setting is out of its range.
    """
    raw = _read_raw(folder, "decoder")
    if raw.get("model_type") != "qwen3":
        raise BundleError(
            f"{folder}: model_type is {shown(repr(raw.get('model_type')))}; "
            "a latent decoder is a qwen3 model, such as Qwen3-0.6B"
        )
    return parse_decoder_config(raw, folder / "config.json")


def parse_decoder_config(raw: dict[str, Any], where: Path | str) -> Qwen3Config:
    """Builds the config of a latent decoder from its JSON object; raises `BundleError`."""
    config = _build(Qwen3Config, "qwen3", text_fields(raw, str(where)), where)
    check_text(config, str(where))
    return config


def _read_raw(folder: Path, argument: str) -> dict[str, Any]:
    """Reads the `config.json` of a folder; raises `BundleError` if there is none."""
    raw = read_object(folder / "config.json")
    if not raw:
        raise BundleError(
            f"{folder}: has no config.json; `{argument}` takes a folder that save_pretrained wrote"
        )
    return raw


def _build(
    config_class: type[PreTrainedConfig], name: str, fields: dict[str, Any], where: Path | str
) -> PreTrainedConfig:
    """Builds a config from checked settings; raises `BundleError`."""
    try:
        # it warns about tokens that an embedder does not use, such as the one that ends an answer
        with _quiet():
            return config_class(**fields)
    # several libraries validate configs, each with its own exceptions
    except Exception as error:
        raise BundleError(f"{where}: not a config of {name} ({shown(first_line(error))})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what transformers logs and its progress bars, and restores its settings."""
    verbosity, progress_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()


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
    """Returns whether the folder holds a PEFT adapter and no model of its own.

    Some trainers write the base's `config.json` beside an adapter, but not its weights.

    Raises:
        BundleError: the folder holds both, so that it is not clear what is meant.
    """
    if not os.path.lexists(folder / ADAPTER_CONFIG):
        return False
    models = ("model.safetensors", "model.safetensors.index.json")
    if any(os.path.lexists(folder / name) for name in models):
        raise BundleError(f"{folder}: holds a model and an adapter; give each a folder of its own")
    return True


def _base_of_adapter(folder: Path) -> Path:
    """Returns the folder of the base model that a PEFT adapter names.

    Raises:
        BundleError: the name is not a local folder. PEFT would download the model from the hub.
    """
    name = read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    # PEFT records the path that training was given, which may be relative; one that is relative to
    # the adapter survives when both folders are moved
    for base in (folder / str(name), Path(str(name))):
        # os.path, because pathlib raises for names that are too long
        if isinstance(name, str) and name and os.path.isfile(base / "config.json"):  # noqa: PTH113
            if _is_adapter_folder(base):
                raise BundleError(
                    f"{folder}: its adapter_config.json names {shown(name)!r}, which is an adapter "
                    "as well; merge that one with PEFT first"
                )
            return base
    raise BundleError(
        f"{folder}: its adapter_config.json names the base {shown(repr(name))}, which is no local "
        "folder; write the path of one there"
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
    # The weights are read here and handed over. `from_pretrained` would look for them itself: in
    # pickles that an index names, in files that the config names, in the base of an adapter.
    weights = read_folder_tensors(folder)
    check_finite(weights, str(folder))
    try:
        # transformers logs missing and unexpected weights and goes on with random ones; its report
        # is checked below instead
        with _quiet():
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=dtype,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except MemoryError:  # it says nothing about the folder
        raise
    except Exception as error:  # from_pretrained raises what a dozen libraries raise
        raise BundleError(
            f"{folder}: its weights cannot be read ({shown(first_line(error))}); "
            "copy the folder again"
        ) from None
    # as if it had looked for the weights itself; PEFT saves this name beside an adapter
    model.name_or_path = model.config.name_or_path = str(folder)
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
                f"{folder}: {fault} {shown(sorted(names)[0])} ({len(names)} in all); "
                "its config.json belongs to another model"
            )
    return model
