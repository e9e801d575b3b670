"""Recognizes the files that hubs, clones and desktops leave in a bundle, and refuses all others.

`verify` names them as not hashed. They are never read, and folders among them never entered.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from lame_runtime.bundle.members import is_in_hub_cache, unreadable
from lame_runtime.errors import BundleError, shown

AT_THE_TOP = (
    # what a repository on a model hub holds beside the bundle, and what a download leaves
    "readme.md", "license", "license.md", "license.txt", ".cache", ".huggingface",
    # a clone's own folder, or the file that stands for it in a worktree or submodule
    ".git", ".gitmodules",
    # archives from macOS
    "__macosx",
)  # fmt: skip
"""Names, in lower case, that are left at the top of a bundle."""
ANYWHERE = (
    ".gitattributes", ".gitignore", ".gitkeep",
    # folder views, thumbnails and attributes of desktops
    ".ds_store", "._*", ".localized", "desktop.ini", "thumbs.db", "ehthumbs.db", ".directory",
)  # fmt: skip
"""Patterns, in lower case, of names that are left in any folder of a bundle."""
MOST_ENTRIES = 1_000_000
"""Largest number of files and folders that are looked at."""


def is_leftover(name: str) -> bool:
    """Returns whether a file or folder of a bundle, by its name in it, was left there by others."""
    *folders, last = name.casefold().split("/")
    patterns = ANYWHERE if folders else (*AT_THE_TOP, *ANYWHERE)
    return any(fnmatchcase(last, pattern) for pattern in patterns)


def find_leftovers(folder: Path, listed: Collection[str]) -> list[str]:
    """Returns the names of leftovers in a bundle, sorted, with `/` behind folders.

    Args:
        folder: the bundle.
        listed: names of its files, which `check_files` checks; its `engines` are left out as well.

    Raises:
        BundleError: it holds anything else: another file, a link, a pipe, a socket or a device, or
            a folder that may not be read.
    """
    leftovers = []
    for name, mode in _entries(folder, set(listed)):
        path, is_folder = folder / name, stat.S_ISDIR(mode)
        # a model hub's cache stores the hub's own files, too, behind links
        if is_leftover(name) and (is_folder or stat.S_ISREG(mode) or is_in_hub_cache(path, folder)):
            leftovers.append(f"{name}/" if is_folder else name)
            continue
        kind = "is" if stat.S_ISREG(mode) else "is a pipe, a socket or a device, and"
        kind = "is a link, and" if stat.S_ISLNK(mode) else kind
        raise BundleError(f"{shown(path)}: {kind} not part of the bundle; move it elsewhere")
    return sorted(leftovers)


def _entries(folder: Path, listed: set[str]) -> list[tuple[str, int]]:
    """Returns name and mode of everything in a bundle that is neither listed nor a plain folder."""
    unlisted: list[tuple[str, int]] = []
    pending, count = [""], 0
    while pending:
        prefix = pending.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    count += 1
                    name, mode = prefix + entry.name, entry.stat(follow_symlinks=False).st_mode
                    if count > MOST_ENTRIES:
                        raise BundleError(
                            f"{shown(folder)}: holds more than {MOST_ENTRIES:,} files"
                        )
                    # listed files and plans are checked by others
                    if name in listed or (name == "engines" and stat.S_ISDIR(mode)):
                        continue
                    if stat.S_ISDIR(mode) and not is_leftover(name):
                        pending.append(f"{name}/")
                    else:
                        unlisted.append((name, mode))
        except OSError as error:
            raise unreadable(folder / prefix, error) from None
    return unlisted
