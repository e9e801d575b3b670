"""Reads the Router of a Sentence Transformers folder, if both of its routes are one model.

A Router sends queries and documents through modules of their own. A bundle has one model, and its
roles differ in their instructions alone; so the routes have to consist of the same modules: shared
ones, which Sentence Transformers saves once, or copies that are equal to the last byte. The file is
described in Sentence Transformers 6.2, `base/modules/router.py`.
"""

from __future__ import annotations

import filecmp
import os
from pathlib import Path
from typing import Any

from lame_runtime.errors import BundleError, shown

from lame_training.model.from_disk.tensors import read_object, reason
from lame_training.published.listing.module_entry import Module, class_name
from lame_training.published.transformer_options import FILE as OPTIONS

CONFIG = "router_config.json"
ROUTES = ("query", "document")
"""Names of the routes that `encode_query` and `encode_document` take."""
_PARAMETERS = {"default_route", "allow_empty_key", "route_mappings"}


def read_router(folder: Path, place: int) -> list[Module]:
    """Returns the modules that both routes of a Router consist of.

    Args:
        folder: the folder of the Router.
        place: its place among the modules of the model.

    Raises:
        BundleError: the file cannot be read, there are other routes than those for queries and
            documents, or the two differ.
    """
    path = folder / CONFIG
    config = read_object(path, missing_is_empty=False)
    types, structure, parameters = (
        _object(config, name, path) for name in ("types", "structure", "parameters")
    )
    _check_parameters(parameters, structure, path)
    if sorted(structure) != sorted(ROUTES):
        names = shown(", ".join(structure)) or "none"
        raise BundleError(
            f"{path}: its routes are {names}; supported are {' and '.join(ROUTES)}, if both "
            "consist of the same modules"
        )
    query, document = (_route(structure[name], types, folder, path) for name in ROUTES)
    if len(query) != len(document):
        raise BundleError(
            f"{path}: its route query has {len(query)} modules, document has {len(document)}; "
            + _one_route(place)
        )
    for first, second in zip(query, document, strict=True):
        if not _same(first, second):
            raise BundleError(
                f"{path}: its routes differ in {shown(first.name)} and {shown(second.name)}; "
                + _one_route(place)
            )
    return query


def check_modalities(folder: Path) -> None:
    """Checks that a backbone in a Router computes the same for inputs of every modality.

    A Router before the backbone says which modality an input has. The backbone alone takes every
    input as a message.

    Args:
        folder: the folder of a `Transformer` module.

    Raises:
        BundleError: a modality is computed in another way than messages are.
    """
    path = folder / OPTIONS
    modalities = read_object(path).get("modality_config")
    # `read_options` says what is wrong with anything else
    for name, values in modalities.items() if isinstance(modalities, dict) else ():
        entry = values if isinstance(values, dict) else {}
        if (entry.get("method"), entry.get("method_output_name")) != (
            "forward",
            "last_hidden_state",
        ):
            raise BundleError(
                f"{path}: modality_config has another method for {shown(name)} than 'forward' with "
                "'last_hidden_state', which a Router would use; save the model without the Router"
            )


def _object(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Returns an object of the file; raises `BundleError` if it is none."""
    value = config.get(name)
    if not isinstance(value, dict):
        raise BundleError(
            f"{path}: {name} is {shown(repr(value))}, not an object; copy the folder again"
        )
    return value


def _check_parameters(parameters: dict[str, Any], routes: dict[str, Any], path: Path) -> None:
    """Raises `BundleError` if routes are chosen by more than a task, or none can be."""
    if unknown := sorted(set(parameters) - _PARAMETERS):
        raise BundleError(
            f"{path}: parameters sets {shown(unknown[0])}, which is not supported; remove it"
        )
    if mappings := parameters.get("route_mappings"):
        raise BundleError(
            f"{path}: route_mappings is {shown(repr(mappings))}; routes by modality, or by other "
            "names, are not supported: use a model without route_mappings"
        )
    # what inputs without a task take is the same as what the others take
    default = parameters.get("default_route")
    if default is not None and (not isinstance(default, str) or default not in routes):
        raise BundleError(
            f"{path}: default_route is {shown(repr(default))}, which is none of its routes; "
            "correct the file"
        )


def _route(names: Any, types: dict[str, Any], folder: Path, path: Path) -> list[Module]:
    """Returns the modules of a route; raises `BundleError`."""
    if not isinstance(names, list) or not all(
        isinstance(name, str) and name in types for name in names
    ):
        raise BundleError(
            f"{path}: a route is {shown(repr(names))}; expected names of types: "
            "copy the folder again"
        )
    return [Module(class_name(types[name], path), folder, name, path) for name in names]


def _same(first: Module, second: Module) -> bool:
    """Returns whether two modules are one, or equal in all of their files."""
    if first.name == second.name:
        return True
    if first.kind != second.kind:
        return False
    folders = (first.folder, second.folder)
    try:
        files, others = map(_files, folders)
        # a comparison of names and contents; sizes are compared before any byte is read
        return files == others and all(
            filecmp.cmp(folders[0] / name, folders[1] / name, shallow=False) for name in files
        )
    except OSError as error:
        raise BundleError(
            f"{first.folder}: cannot be compared with {second.folder} ({reason(error)}); "
            "copy the folder again"
        ) from None


def _files(folder: Path) -> list[Path]:
    """Returns the paths of all files in a folder, relative to it, in order."""
    return sorted(
        Path(place, name).relative_to(folder)
        for place, _, names in os.walk(folder)
        for name in names
    )


def _one_route(place: int) -> str:
    """Returns how to save a folder that has one route only."""
    before = f"*list(model)[:{place}], " if place else ""
    route, after = f'*model[{place}].sub_modules["query"]', f"*list(model)[{place + 1}:]"
    return (
        "a bundle has one model for both. Export a folder of one route, as Sentence Transformers "
        f"saves SentenceTransformer(modules=[{before}{route}, {after}], prompts=model.prompts)"
    )
