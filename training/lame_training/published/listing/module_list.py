"""Reads `modules.json`: which modules a Sentence Transformers folder consists of, and where.

Classes are recognized by name and never imported. A Router is replaced by the modules of its
routes, see `router_folder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lame_runtime.errors import BundleError, shown
from lame_runtime.files import json_file

from lame_training.model.from_disk.tensors import MAX_JSON, inside, reason
from lame_training.published.folder_kind import MODULES
from lame_training.published.listing.module_entry import Module, class_name, module_folder
from lame_training.published.listing.router_folder import check_modalities, read_router

ORDERS = (
    ["Transformer", "Pooling", "Normalize"],
    ["Transformer", "Pooling"],
    ["Transformer", "Pooling", "Dense", "Normalize"],
    ["Transformer", "Pooling", "Dense"],
)
"""The sequences of modules that are supported, by the names of their classes."""
ROUTER = "Router"


def list_modules(folder: Path) -> dict[str, Path]:
    """Returns the folder of each module of a model by the name of its class.

    Args:
        folder: the Sentence Transformers folder.

    Raises:
        BundleError: a file cannot be read; a module, their order or a Router is not supported; or
            a module's folder is not inside of the model's.
    """
    path = folder / MODULES
    listed = _entries(path)
    kinds = [class_name(entry.get("type"), path) for entry in listed]
    # Sentence Transformers puts the second of two modules with one name in the place of the first
    labels = [entry.get("name") for entry in listed]
    modules: list[Module] = []
    for place, (kind, entry) in enumerate(zip(kinds, listed, strict=True)):
        if kind != ROUTER:
            modules.append(Module(kind, folder, entry.get("path"), path))
            continue
        route = read_router(module_folder(folder, entry.get("path"), path), place)
        # it tells the backbone which modality an input has, where the backbone alone says message
        for module in route:
            if module.kind == "Transformer":
                check_modalities(module.folder)
        modules += route
    names = [module.kind for module in modules]
    if names not in ORDERS:
        known = "; ".join(", ".join(order) for order in ORDERS)
        own = shown(", ".join(names)) or "none"
        raise BundleError(f"{path}: its modules are {own}; supported: {known}")
    if any(label in labels[:place] for place, label in enumerate(labels)):
        raise BundleError(f"{path}: two modules have the same name; copy the folder again")
    return {module.kind: module.folder for module in modules}


def _entries(path: Path) -> list[dict[str, Any]]:
    """Returns the entries of `modules.json`; raises `BundleError`."""
    try:
        listed = json_file.read_json(inside(path), MAX_JSON)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({reason(error)}); copy it again") from None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise BundleError(f"{path}: is not a list of modules; copy the folder again")
    return listed
