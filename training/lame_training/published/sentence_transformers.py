"""Reads the folder of a Sentence Transformers model.

The files are those of Sentence Transformers 5.4 to 6.2: `modules.json`,
`config_sentence_transformers.json`, and `sentence_bert_config.json` in the backbone's folder.
Classes are recognized by name and never imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lame_runtime.errors import BundleError, shown
from lame_runtime.files import json_file

from lame_training.model.backbones import config_folder, read_config
from lame_training.model.from_disk.tensors import MAX_JSON, inside, read_object, reason
from lame_training.published.folder_kind import MODULES
from lame_training.published.module_folders import (
    Dense,
    PublishedPooling,
    read_dense,
    read_pooling,
)

ORDERS = (
    ["Transformer", "Pooling", "Normalize"],
    ["Transformer", "Pooling"],
    ["Transformer", "Pooling", "Dense", "Normalize"],
    ["Transformer", "Pooling", "Dense"],
)
"""The sequences of modules that are supported, by the names of their classes."""
_PACKAGE = "sentence_transformers."
_ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names of the prompts that `encode_query` and `encode_document` take, in order."""
_HARMLESS = {
    "processor_kwargs": {"padding_side", "use_fast", "backend", "model_max_length"},
    "model_kwargs": {"torch_dtype", "dtype", "attn_implementation", "device_map"},
    "config_kwargs": {"use_cache"},
}
"""Settings of loading that change no vector, or that are read elsewhere."""


@dataclass(frozen=True)
class SentenceTransformersFolder:
    """Holds what a Sentence Transformers folder says about its model.

    Attributes:
        backbone: the folder of the backbone, its tokenizer and its processor.
        pooling: how the states of tokens become one.
        dense: the affine layer after it, if there is one.
        roles: the instruction of each role; "query" and "document" are always there.
        default_role: the role of inputs that are embedded without one.
        variables: what the chat template is rendered with, besides the messages.
        truncate_dim: number of leading values of the vector that are kept; None for all.
        max_length: longest input in tokens; None if the folder does not say.
        versions: the versions of the libraries that wrote the folder.
    """

    backbone: Path
    pooling: PublishedPooling
    dense: Dense | None
    roles: dict[str, str]
    default_role: str | None
    variables: Mapping[str, Any]
    truncate_dim: int | None
    max_length: int | None
    versions: dict[str, str] = field(default_factory=dict)


def read_sentence_transformers(folder: Path) -> SentenceTransformersFolder:
    """Reads a Sentence Transformers folder.

    Raises:
        BundleError: a file cannot be read, or the model has something that is not supported; the
            message names it.
    """
    modules = _modules(folder)
    backbone = modules["Transformer"]
    width = int(read_config(config_folder(backbone)).text_config.hidden_size)
    settings = read_object(folder / "config_sentence_transformers.json")
    _check_similarity(settings, modules, folder)
    roles, default_role = _prompts(settings, folder)
    options = read_object(backbone / "sentence_bert_config.json")
    variables = _template_variables(options, backbone / "sentence_bert_config.json")
    versions = settings.get("__version__")
    return SentenceTransformersFolder(
        backbone=backbone,
        pooling=read_pooling(modules["Pooling"], width),
        dense=read_dense(modules["Dense"], width) if "Dense" in modules else None,
        roles=roles,
        default_role=default_role,
        variables=variables,
        truncate_dim=_whole(settings, "truncate_dim", folder),
        max_length=_max_length(options, backbone),
        versions={str(key): str(value) for key, value in versions.items()}
        if isinstance(versions, dict)
        else {},
    )


def _modules(folder: Path) -> dict[str, Path]:
    """Returns the folder of each module by the name of its class."""
    path = folder / MODULES
    try:
        listed = json_file.read_json(inside(path), MAX_JSON)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({reason(error)}); copy it again") from None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise BundleError(f"{path}: is not a list of modules; copy the folder again")
    names = []
    for entry in listed:
        kind = str(entry.get("type"))
        if not kind.startswith(_PACKAGE):
            raise BundleError(
                f"{path}: the module {shown(repr(kind))} is code of its own, which is never run; "
                "use a model of Sentence Transformers' own modules"
            )
        names.append(kind.rsplit(".", 1)[-1])
    if names not in ORDERS:
        known = "; ".join(", ".join(order) for order in ORDERS)
        raise BundleError(f"{path}: its modules are {shown(', '.join(names))}; supported: {known}")
    return {
        name: _module_folder(folder, entry.get("path"), path)
        for name, entry in zip(names, listed, strict=True)
    }


def _module_folder(folder: Path, name: object, path: Path) -> Path:
    """Returns the folder of a module; raises `BundleError` if it is not inside of the model's."""
    inner = name if isinstance(name, str) else None
    if inner is None or "\\" in inner or Path(inner).is_absolute() or ".." in Path(inner).parts:
        raise BundleError(f"{path}: names the folder {shown(repr(name))}; copy the model again")
    module = folder / inner
    # Normalize has no settings, and some releases save no folder for it
    real = os.path.realpath(module)
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise BundleError(f"{module}: is a link that leads outside of the model; copy it there")
    return module


def _prompts(settings: dict[str, Any], folder: Path) -> tuple[dict[str, str], str | None]:
    """Returns the instruction of each role, and the default role."""
    path = folder / "config_sentence_transformers.json"
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str | None) for text in prompts.values()
    ):
        raise BundleError(f"{path}: prompts is {shown(repr(prompts))}; expected texts by name")
    texts = {name: text or "" for name, text in prompts.items()}
    roles = dict(texts)
    for role, names in _ROLES.items():
        roles[role] = next((texts[name] for name in names if name in texts), "")
    default = settings.get("default_prompt_name")
    if default is not None and not (isinstance(default, str) and default in texts):
        raise BundleError(
            f"{path}: default_prompt_name is {shown(repr(default))}, which is none of its prompts"
        )
    return roles, default


def _check_similarity(settings: dict[str, Any], modules: dict[str, Path], folder: Path) -> None:
    """Raises `BundleError` if vectors that are not normalized are compared by their length."""
    similarity = settings.get("similarity_fn_name")
    if "Normalize" not in modules and similarity not in (None, "cosine"):
        raise BundleError(
            f"{folder}: compares vectors that are not normalized by {shown(repr(similarity))}; "
            "vectors of a bundle have unit length"
        )


def _template_variables(options: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the variables of the chat template, after checking how inputs are processed."""
    task = options.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise BundleError(f"{path}: transformer_task is {shown(repr(task))}; not an embedder")
    modalities = options.get("modality_config")
    message = modalities.get("message") if isinstance(modalities, dict) else None
    if not isinstance(message, dict):
        raise BundleError(
            f"{path}: its modality_config has no 'message', so it takes texts alone, without the "
            "chat template; save the model with Sentence Transformers 5.4 or later"
        )
    expected = {
        "method": "forward",
        "method_output_name": "last_hidden_state",
        "format": "structured",
    }
    for name, value in expected.items():
        if message.get(name, value) != value:
            raise BundleError(
                f"{path}: the {name} of messages is {shown(repr(message[name]))}; "
                f"supported is {value!r}"
            )
    for name, known in _HARMLESS.items():
        if unknown := sorted(set(_object(options, name, path)) - known):
            raise BundleError(f"{path}: {name} sets {shown(unknown[0])}, which is not supported")
    processing = _object(options, "processing_kwargs", path)
    for name in processing:
        values = _object(processing, name, path, "processing_kwargs.")
        # padding and truncation change no input that is within the limit
        others = set(values) - {"padding", "truncation", "max_length", "return_tensors"}
        if name != "chat_template" and others:
            raise BundleError(
                f"{path}: processing_kwargs.{shown(name)} sets {shown(sorted(others)[0])}, "
                "which is not supported; set it in the processor's own files"
            )
    variables = dict(processing.get("chat_template") or {})
    variables.pop("restore_suffix", None)
    return {"add_generation_prompt": False, **variables}


def _max_length(options: dict[str, Any], backbone: Path) -> int | None:
    """Returns the longest input in tokens that the folder names."""
    tokenizer = read_object(backbone / "tokenizer_config.json")
    limits = (
        _whole(options, "max_seq_length", backbone),
        _whole(_object(options, "processor_kwargs", backbone), "model_max_length", backbone),
        _whole(tokenizer, "model_max_length", backbone),
    )
    # transformers writes 10^30 for a tokenizer without a limit
    return next((limit for limit in limits if limit is not None and limit < 1 << 20), None)


def _object(settings: dict[str, Any], name: str, path: Path, outer: str = "") -> dict[str, Any]:
    """Returns an object of the settings; empty if it is null or missing."""
    value = settings.get(name)
    if value is None or isinstance(value, dict):
        return value or {}
    raise BundleError(f"{path}: {outer}{shown(name)} is {shown(repr(value))}, not an object")


def _whole(settings: dict[str, Any], name: str, folder: Path) -> int | None:
    """Returns a whole number above 0, or None if it is not there."""
    value = settings.get(name)
    if value is None or (type(value) is int and value > 0):
        return value
    raise BundleError(f"{folder}: {name} is {shown(repr(value))}; expected a whole number above 0")
