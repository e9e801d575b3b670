"""Reads the safetensors of a folder: regular files inside of it, with values that a model can use.

A safetensors file is a header in JSON and plain numbers, so reading one runs nothing. Pickled
weights are never opened, by whichever name a folder calls them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lame_runtime.errors import BundleError, first_line, shown
from lame_runtime.files import json_file
from lame_runtime.files.regular import open_regular
from safetensors import safe_open
from torch import Tensor

FLOATS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""safetensors' names of the types that weights may have, with bytes per value."""
MAX_JSON = 64 << 20
"""Largest JSON file of a folder in bytes; an index of 10,000 weights takes 1 MB."""


def read_object(path: Path, *, missing_is_empty: bool = True) -> dict[str, Any]:
    """Reads a JSON object of a folder of weights.

    Args:
        path: the file; a link must not lead outside of the folder, see `inside`.
        missing_is_empty: return an empty object if there is no such file.

    Raises:
        BundleError: the file cannot be read, or holds something other than a JSON object.
    """
    remedy = "copy the folder again"
    try:
        content = json_file.read_json(inside(path), MAX_JSON)
    except FileNotFoundError:
        if missing_is_empty:
            return {}
        raise BundleError(f"{path}: is missing; {remedy}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({reason(error)}); {remedy}") from None
    if not isinstance(content, dict):
        raise BundleError(f"{path}: holds a {type(content).__name__}, not a JSON object; {remedy}")
    return content


def reason(error: Exception) -> str:
    """Returns why a file cannot be read: the system's words alone, without number and path."""
    return getattr(error, "strerror", None) or first_line(error)


def inside(path: Path) -> Path:
    """Returns the path of a file of a folder after checking where its links lead.

    A link may lead to a file in the same folder, or to a blob of the same repository in the
    Hugging Face cache (`snapshots/REVISION/NAME` → `blobs/HASH`).

    Raises:
        BundleError: the link leads elsewhere.
        OSError: the folder cannot be searched.
    """
    # os.path, because pathlib raises for links in a circle
    folder, target = (Path(os.path.realpath(name)) for name in (path.parent, path))
    if target.is_relative_to(folder):
        return path
    # within a snapshot a file may lie in a subfolder
    for place in (folder, *folder.parents):
        if place.parent.name == "snapshots" and target.parent == place.parent.parent / "blobs":
            return path
    raise BundleError(
        f"{_named(path)}: is a link that leads outside of its folder; copy the file there"
    )


def _named(path: Path) -> Path:
    """Returns a path for a message; its last part may be a long name that an index gives."""
    return path.parent / shown(path.name)


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that hold a model's weights: one file, or the shards that an index names.

    Raises:
        BundleError: there are none, they are pickled, or the index names a file that is not a
            safetensors file of this folder.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists() or single.is_symlink():
        return [single]
    named = read_object(index).get("weight_map")
    if named is None:
        raise BundleError(f"{folder}: holds {what_instead(folder)}; {_AS_SAFETENSORS}")
    if not isinstance(named, dict) or not named:
        raise BundleError(f"{index}: weight_map names no files; copy the folder again")
    for name in named.values():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise BundleError(
                f"{index}: names {shown(name)!r}, which is not a file of this folder; "
                "copy the folder again"
            )
        if not name.endswith(".safetensors"):
            raise BundleError(
                f"{index}: names {shown(name)!r}, and only safetensors are read; "
                f"pickled weights are never loaded; {_AS_SAFETENSORS}"
            )
    return [folder / name for name in sorted(set(named.values()))]


_AS_SAFETENSORS = "save the model as safetensors (save_pretrained does)"


def what_instead(folder: Path) -> str:
    """Returns what a folder without safetensors holds."""
    # unpickling runs whatever code the file holds
    pickles = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin.index.json")
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise BundleError(f"{folder}: cannot be read ({reason(error)}); check it") from None
    if any(name.endswith(pickles) for name in names):
        return "pickled weights, which are never loaded"
    return "no weights"


def read_folder_tensors(folder: Path) -> dict[str, Tensor]:
    """Returns the weights of a folder by name; raises `BundleError`, see `weight_files`."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        for name, value in read_tensors(path).items():
            if name in weights:
                raise BundleError(
                    f"{_named(path)}: holds {shown(name)}, which another file of the folder holds "
                    "as well; copy the folder again"
                )
            weights[name] = value
    return weights


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file; they are mapped and read from disk when used.

    Raises:
        BundleError: the file is missing, not a regular file, damaged, or holds a tensor of another
            type than 16, 32 or 64-bit floating point. The message names the tensor.
    """
    try:
        # a pipe would block, and safetensors maps whatever it is given
        open_regular(inside(path)).close()
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for name in names:
                if (kind := file.get_slice(name).get_dtype()) not in FLOATS:
                    raise BundleError(
                        f"{_named(path)}: the weight {shown(name)} is of type {shown(kind)}; "
                        f"weights are {', '.join(FLOATS)}: use the unquantized model"
                    )
            return {name: file.get_tensor(name) for name in names}
    # memory that runs out says nothing about the file
    except (BundleError, MemoryError):
        raise
    except Exception as error:  # safetensors raises what its Rust code, torch and the system raise
        raise BundleError(
            f"{_named(path)}: cannot be read ({shown(reason(error))}); copy the folder again"
        ) from None


def check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raises a `BundleError` that names the first weight with a value that is not finite."""
    for name, value in weights.items():
        # the two extremes of a tensor with a NaN are NaN; no copy is made
        if value.numel() and not all(
            bool(torch.isfinite(extreme)) for extreme in torch.aminmax(value.detach())
        ):
            raise BundleError(
                f"{source}: the weight {shown(name)} holds NaN or an infinity; "
                "copy the folder or train the model again"
            )
