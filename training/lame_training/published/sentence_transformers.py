"""Reads the folder of a Sentence Transformers model.

The files are those of Sentence Transformers 5.4 to 6.2: `modules.json`,
`config_sentence_transformers.json`, and `sentence_bert_config.json` in the backbone's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lame_runtime.errors import BundleError, shown

from lame_training.model.backbones import config_folder, read_config
from lame_training.model.from_disk.merging.adapter_settings import CONFIG as ADAPTER_CONFIG
from lame_training.model.from_disk.tensors import read_object
from lame_training.published.listing.module_list import list_modules
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
    modules = list_modules(folder)
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
