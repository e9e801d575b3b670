"""Recognizes the files that hubs, clones and desktops leave in a bundle, and refuses all others.

`verify` names them as not hashed. They are never read, and folders among them never entered. What
lies in `engines/` is named as well, unless it belongs to a build of plans.
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
    # what a repository on a model hub holds in addition to the bundle
    "license", "license.*", "licence", "licence.*", "copying", "notice", "citation.cff",
    "use_policy.md", ".github", ".gitlab-ci.yml",
    # what a download from a hub leaves
    ".cache", ".huggingface", ".huggingface.lock", ".locks", ".no_exist", ".mdl", ".msc", ".mv",
    # folders of clones and workspaces; .git is a file in a worktree or submodule
    ".git", ".gitmodules", ".lfsconfig", ".hg", ".svn", ".dvc", ".idea", ".vscode",
    # the root of a disk
    "$recycle.bin", "system volume information", "lost+found", ".fseventsd", ".spotlight-v100",
    ".documentrevisions-v100", ".volumeicon.icns",
    # archives from macOS
    "__macosx",
)  # fmt: skip
"""Patterns, in lower case, of names that are left at the top of a bundle."""
ANYWHERE = (
    "readme", "readme.md", "readme.txt", "readme.rst",
    ".gitattributes", ".gitignore", ".gitkeep", ".ipynb_checkpoints",
    # folder views, thumbnails, attributes and bins of desktops
    ".ds_store", "._*", ".localized", "icon\r", ".appledouble", ".appledb", ".temporaryitems",
    ".trashes", "desktop.ini", "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", ".directory",
    ".trash-*",
    # network file systems and file servers
    ".nfs*", ".fuse_hidden*", "@eadir", "#recycle", ".snapshot",
    # copies and locks of editors
    "*~", ".*.swp", ".~lock.*#",
)  # fmt: skip
"""Patterns, in lower case, of names that are left in any folder of a bundle."""
ENGINES = "engines"
BUILD_FILES = ("build.json", "vision.plan", "encoder.plan", "device*.json")
"""Patterns of the files of a build, which lie in a folder of `engines/`."""
MOST_ENTRIES = 1_000_000
"""Largest number of files and folders that are looked at."""


def is_leftover(name: str) -> bool:
    """Returns whether a file or folder of a bundle, by its name in it, was left there by others."""
    *folders, last = name.casefold().split("/")
    patterns = ANYWHERE if folders else (*AT_THE_TOP, *ANYWHERE)
    return any(fnmatchcase(last, pattern) for pattern in patterns)


def find_leftovers(folder: Path, listed: Collection[str]) -> list[str]:
    """Returns the names of leftovers in a bundle, sorted, with `/` after folders.

    Files of `engines/` that are of no build are among them.

    Args:
        folder: the bundle.
        listed: names of its files, which `check_files` checks.

    Raises:
        BundleError: it holds anything else: another file, a link, a pipe, a socket or a device, or
            a folder that may not be read.
    """
    leftovers = []
    for name, mode in _entries(folder, set(listed)):
        path, is_folder, is_link = folder / name, stat.S_ISDIR(mode), stat.S_ISLNK(mode)
        in_engines = name.startswith(f"{ENGINES}/")
        if is_link:
            # a model hub's cache stores the hub's own files, too, behind links
            harmless = (is_leftover(name) and is_in_hub_cache(path, folder)) or (
                in_engines and _leads_into(path, folder / ENGINES)
            )
        else:
            plain = is_folder or stat.S_ISREG(mode)
            harmless = plain and (in_engines or is_leftover(name))
        if not harmless:
            kind = "is" if stat.S_ISREG(mode) else "is a pipe, a socket or a device, and"
            kind = "is a link, and" if is_link else kind
            raise BundleError(
                f"{shown(folder / name)}: {kind} not part of the bundle; move it elsewhere"
            )
        if is_folder:
            leftovers.append(f"{name}/")
        elif not _is_of_build(name):
            leftovers.append(name)
    return sorted(leftovers)


def _entries(folder: Path, listed: set[str]) -> list[tuple[str, int]]:
    """Returns name and mode of everything in a bundle that is neither listed nor a plain folder.

    Folders in `engines/` that are empty, or lie deeper than those of builds, are not plain.
    """
    unlisted: list[tuple[str, int]] = []
    pending, count = [""], 0
    while pending:
        prefix = pending.pop()
        depth = prefix.count("/") if prefix.startswith(f"{ENGINES}/") else 0
        modes = _modes(folder / prefix, vanishing=depth > 1)
        if modes == [] and depth > 1:
            unlisted.append((prefix[:-1], stat.S_IFDIR))
        for last, mode in modes or []:
            count += 1
            name = prefix + last
            if count > MOST_ENTRIES:
                raise BundleError(
                    f"{shown(folder)}: holds more than {MOST_ENTRIES:,} files; "
                    "export the bundle again"
                )
            if name in listed:
                continue
            if stat.S_ISDIR(mode) and not is_leftover(name) and depth < 2:
                pending.append(f"{name}/")
            else:
                unlisted.append((name, mode))
    return unlisted


def _modes(folder: Path, *, vanishing: bool) -> list[tuple[str, int]] | None:
    """Returns names and modes of the entries of a folder; None if it may vanish, and did."""
    modes = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                modes.append((entry.name, entry.stat(follow_symlinks=False).st_mode))
                if len(modes) > MOST_ENTRIES:
                    break
    except FileNotFoundError as error:
        # another process may build plans meanwhile, and rename what it has built
        if not vanishing:
            raise unreadable(folder, error) from None
        return None
    except OSError as error:
        raise unreadable(folder, error) from None
    return modes


def _is_of_build(name: str) -> bool:
    folders, _, last = name.rpartition("/")
    is_inside = folders.startswith(f"{ENGINES}/") and folders.count("/") == 1
    return is_inside and any(fnmatchcase(last, pattern) for pattern in BUILD_FILES)


def _leads_into(link: Path, folder: Path) -> bool:
    """Whether a link leads to something in a folder; not if it leads nowhere."""
    try:
        return link.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        # dangling, or in a circle
        return False
