"""Tells what a folder of a model holds, by its files and never by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from lame_runtime.errors import BundleError, UsageError, shown

from lame_training.model.backbones import FAMILIES
from lame_training.model.from_disk.merging.adapter_settings import CONFIG as ADAPTER_CONFIG
from lame_training.model.from_disk.tensors import read_object
from lame_training.published.forms.published_forms import FORMS

MODULES = "modules.json"
"""The file that lists the modules of a Sentence Transformers folder."""
FolderKind = Literal["checkpoint", "sentence-transformers", "form"]
MULTI_VECTOR = ("col", "retrieval")
"""Parts of the names of models that return a vector for each token."""
_REMEDY = (
    f"name its form with `--form` ({', '.join(FORMS)}), or save it with Sentence Transformers' own "
    "modules"
)


def folder_kind(folder: Path, form: str | None = None) -> FolderKind:
    """Returns what a folder holds.

    Args:
        folder: the folder.
        form: the published form that the caller says it has, see `published_forms`; None looks for
            what the folder says itself.

    A folder without any model counts as a checkpoint, whose reader says what is missing.

    Raises:
        BundleError: the folder holds a model, but not one that can be used as an embedder; the
            message says what it is and what to do.
        UsageError: `form` is given, and the folder is a checkpoint.
    """
    if form is not None:
        if _is_checkpoint(folder):
            raise UsageError(f"`form` is {shown(form)}: {folder} is a checkpoint; leave it out")
        return "form"
    if os.path.lexists(folder / MODULES):
        return "sentence-transformers"
    # a bundle has a manifest, and the reader of checkpoints refuses it
    if not os.path.lexists(folder / "config.json"):
        if os.path.lexists(folder / ADAPTER_CONFIG):
            raise BundleError(
                f"{folder}: holds an adapter without {MODULES}, which does not say how its vectors "
                f"are pooled; {_REMEDY}"
            )
        return "checkpoint"
    if _is_checkpoint(folder):
        return "checkpoint"
    raise BundleError(f"{folder}: {_model_instead(read_object(folder / 'config.json'))}")


def _is_checkpoint(folder: Path) -> bool:
    """Returns whether a folder with a config is a checkpoint; raises `BundleError`."""
    if not os.path.lexists(folder / "config.json"):
        return False
    config = read_object(folder / "config.json")
    return isinstance(config.get("backbone"), dict) or "model_type" not in config


def _model_instead(config: dict[str, Any]) -> str:
    """Returns what a folder with a model but without `modules.json` is, and what to do."""
    model_type = str(config["model_type"])
    names = f"{model_type} {config.get('architectures')}".lower()
    if config.get("auto_map"):
        return f"is a {shown(model_type)} model with custom code, which is never run; {_REMEDY}"
    if any(part in names for part in MULTI_VECTOR):
        return (
            f"is a {shown(model_type)} model, which returns a vector for each token; "
            "models of several vectors are not supported yet"
        )
    if model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        return f"is a {shown(model_type)} model; supported backbones are {known}"
    return (
        f"is a backbone without {MODULES}, which does not say how its vectors are pooled; {_REMEDY}"
        ", or train on it with `lame-train run --backbone`"
    )
