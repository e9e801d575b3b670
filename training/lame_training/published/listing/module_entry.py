"""An entry of a list of modules: a class by its name, and the folder of the module's files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.errors import BundleError, shown

_PACKAGE = "sentence_transformers."


@dataclass(frozen=True)
class Module:
    """An entry of a list of modules.

    Attributes:
        kind: the name of its class.
        parent: the folder that its own lies in.
        name: the path of its own folder in that one, as the list gives it.
        source: the file with the list.
    """

    kind: str
    parent: Path
    name: Any
    source: Path

    @property
    def folder(self) -> Path:
        """Returns the module's folder; raises `BundleError` if it is outside of its parent."""
        return module_folder(self.parent, self.name, self.source)


def class_name(kind: Any, path: Path) -> str:
    """Returns the name of the class that a list of modules names.

    Args:
        kind: what the list says.
        path: the file with the list.

    Raises:
        BundleError: it is no name, or a class from elsewhere.
    """
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
    return kind.rsplit(".", 1)[-1]


def module_folder(folder: Path, name: Any, path: Path) -> Path:
    """Returns the folder of a module; raises `BundleError` if it is not inside of the model's.

    Args:
        folder: the model's folder.
        name: the path of the module's folder in it.
        path: the file that names it.
    """
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
