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
from lame_training.model.from_disk.merging.adapter_settings import CONFIG as ADAPTER_CONFIG
from lame_training.model.from_disk.tensors import MAX_JSON, inside, read_object, reason
from lame_training.published.folder_kind import MODULES
from lame_training.published.module_folders import (
    Dense,
    PublishedPooling,
    check_normalize,
    read_dense,
    read_pooling,
)
from lame_training.published.transformer_options import (
    check_own_code,
    longest_input,
    read_options,
    template_variables,
    whole_number,
)

ORDERS = (
    ["Transformer", "Pooling", "Normalize"],
    ["Transformer", "Pooling"],
    ["Transformer", "Pooling", "Dense", "Normalize"],
    ["Transformer", "Pooling", "Dense"],
)
"""The sequences of modules that are supported, by the names of their classes."""
_PACKAGE = "sentence_transformers."
SETTINGS = "config_sentence_transformers.json"
_ROLES = ("query", "document")
"""Names of the prompts that `encode_query` and `encode_document` take. Version 6 gives every model
both, empty if the folder has none, so that it never comes to the other names it knows."""


@dataclass(frozen=True)
class PublishedEmbedder:
    """Holds what the folder of a published embedder says about its model.

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


def read_sentence_transformers(folder: Path) -> PublishedEmbedder:
    """Reads a Sentence Transformers folder.

    Raises:
        BundleError: a file cannot be read, or the model has something that is not supported; the
            message names it.
    """
    modules = _modules(folder)
    backbone = modules["Transformer"]
    for name in ("config.json", ADAPTER_CONFIG):
        if os.path.lexists(backbone / name):
            break
    else:
        raise BundleError(f"{backbone / 'config.json'}: is missing; copy the folder again")
    files = config_folder(backbone)
    for place in (backbone, files):
        check_own_code(place)
    width = int(read_config(files).text_config.hidden_size)
    settings = read_object(folder / SETTINGS)
    kind = settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise BundleError(
            f"{folder / SETTINGS}: model_type is {shown(repr(kind))}; "
            "supported is a SentenceTransformer, which gives one vector for an input"
        )
    truncate_dim = whole_number(settings, "truncate_dim", folder / SETTINGS)
    _check_similarity(settings, "Normalize" in modules and truncate_dim is None, folder)
    roles, default_role = _prompts(settings, folder / SETTINGS)
    options = read_options(backbone)
    if "Normalize" in modules:
        check_normalize(modules["Normalize"])
    versions = settings.get("__version__")
    return PublishedEmbedder(
        backbone=backbone,
        pooling=read_pooling(modules["Pooling"], width),
        dense=read_dense(modules["Dense"], width) if "Dense" in modules else None,
        roles=roles,
        default_role=default_role,
        variables=template_variables(options),
        truncate_dim=truncate_dim,
        max_length=longest_input(options, backbone, files),
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
        kind = entry.get("type")
        if not isinstance(kind, str):
            raise BundleError(
                f"{path}: type of a module is {shown(repr(kind))}, not the name of a class; "
                "copy the folder again"
            )
        if not kind.startswith(_PACKAGE):
            raise BundleError(
                f"{path}: the module {shown(repr(kind))} is custom code, which is never run; "
                "use a model that consists of Sentence Transformers' own modules"
            )
        names.append(kind.rsplit(".", 1)[-1])
    if names not in ORDERS:
        known = "; ".join(", ".join(order) for order in ORDERS)
        own = shown(", ".join(names)) or "none"
        raise BundleError(f"{path}: its modules are {own}; supported: {known}")
    # Sentence Transformers puts the second of two modules with one name in the place of the first
    labels = [entry.get("name") for entry in listed]
    if any(label in labels[:place] for place, label in enumerate(labels)):
        raise BundleError(f"{path}: two modules have the same name; copy the folder again")
    return {
        name: _module_folder(folder, entry.get("path"), path)
        for name, entry in zip(names, listed, strict=True)
    }


def _module_folder(folder: Path, name: object, path: Path) -> Path:
    """Returns the folder of a module; raises `BundleError` if it is not inside of the model's."""
    wrong = BundleError(f"{path}: names the folder {shown(repr(name))}; copy the model again")
    # a longer name is none that a file system has
    if not isinstance(name, str) or "\\" in name or len(name) > 255:
        raise wrong
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise wrong
    module = folder / name
    try:
        # Normalize has no settings, and some releases save no folder for it
        real = Path(os.path.realpath(module))
    except ValueError:  # a null character, or half of a surrogate pair
        raise wrong from None
    if not real.is_relative_to(os.path.realpath(folder)):
        raise BundleError(f"{module}: is a link that leads outside of the model; copy it there")
    return module


def _prompts(settings: dict[str, Any], path: Path) -> tuple[dict[str, str], str | None]:
    """Returns the instruction of each role, and the default role."""
    prompts = settings.get("prompts")
    if prompts is None:
        prompts = {}
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str | None) for text in prompts.values()
    ):
        raise BundleError(
            f"{path}: prompts is {shown(repr(prompts))}; expected texts by name: correct the file"
        )
    roles = {**dict.fromkeys(_ROLES, ""), **{name: text or "" for name, text in prompts.items()}}
    default = settings.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in roles):
        raise BundleError(
            f"{path}: default_prompt_name is {shown(repr(default))}, which is none of its prompts; "
            "correct the file"
        )
    return roles, default


def _check_similarity(settings: dict[str, Any], unit_length: bool, folder: Path) -> None:
    """Raises `BundleError` if vectors that are not normalized are compared by their length."""
    similarity = settings.get("similarity_fn_name")
    if not unit_length and similarity not in (None, "cosine"):
        raise BundleError(
            f"{folder}: compares vectors that are not normalized by {shown(repr(similarity))}; "
            "vectors of a bundle have unit length, so use a model that compares by cosine"
        )
