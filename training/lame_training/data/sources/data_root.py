"""A folder of data that no path, glob or link leads out of, unless the user allows it.

Mixtures and rows are downloaded with the data, so they are no more trusted than the data: a path in
them must not make a run read, list or hang on anything else on the disk. Links count as what they
lead to.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from lame_runtime.errors import StorageError, UsageError, shown
from lame_runtime.files.regular import open_regular

MAX_FILES = 100_000
"""Number of files that one glob may name."""


def lies_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Returns whether a path is a folder or lies in it, with all links of both followed.

    A string that cannot be a path (a null character, a lone surrogate) lies nowhere.
    """
    try:
        real, base = os.path.realpath(path), os.path.realpath(folder)
    except (OSError, ValueError):
        return False
    return real == base or real.startswith(base.rstrip(os.sep) + os.sep)


def is_link(path: Path) -> bool:
    """Returns whether a path is a link; False for what is no path, such as one that is too long."""
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class DataRoot:
    """The folder that all paths of a run's data start from.

    Attributes:
        folder: the folder; absolute.
        allow_outside: whether paths and links may lead out of it.
    """

    folder: Path
    allow_outside: bool = False

    @cached_property
    def _real(self) -> str:
        return os.path.realpath(self.folder)

    def allows(self, path: str | os.PathLike[str]) -> bool:
        """Returns whether a path may be used: it lies in the folder, or may lie anywhere."""
        return self.allow_outside or lies_inside(path, self._real)

    def join(self, path: str, what: str) -> Path:
        """Returns a path that starts at the folder.

        Args:
            path: relative to the folder, or absolute.
            what: names the path in the message, such as "images".

        Raises:
            UsageError: it is no path, or leads out of the folder.
        """
        # two dots are resolved as text, too: `a/..` must not depend on whether `a` exists
        joined = self.folder / path
        if not path.isprintable():
            raise UsageError(f"{what} is {shown(path)!r}, which is not a path; correct it")
        if not (self.allows(joined) and self.allows(os.path.normpath(joined))):
            raise UsageError(
                f"{what} {shown(path)} leads out of the data root {self.folder}; "
                "give a path below it, or allow others with `allow_outside`"
            )
        return joined

    def require_file(self, path: Path) -> Path:
        """Returns the path of a file that may be read.

        Raises:
            UsageError: it leads out of the folder.
            StorageError: it is missing, not permitted, or not a regular file.
        """
        if not self.allows(path):
            raise UsageError(
                f"{shown(path)} is a link that leads out of the data root {shown(self.folder)}; "
                "copy the file, or allow it with `allow_outside`"
            )
        try:
            # libraries would wait forever for a pipe, and read a device without end
            open_regular(path).close()
        except OSError as error:
            raise StorageError(
                f"{shown(path)}: cannot be read ({error.strerror}); "
                "check the path and its permissions"
            ) from None
        return path

    def matching(self, pattern: str, *, pass_links: bool = False) -> list[Path]:
        """Returns the files and folders that a glob names, sorted.

        As in a shell, `*` and `?` stop at a slash and pass over hidden names, and `**` stands for
        any number of folders. It does not enter folders that are links.

        Args:
            pattern: a glob, relative to the folder or absolute.
            pass_links: pass over links that lead out of the folder instead of refusing them.

        Raises:
            UsageError: the glob, or a link that it names, leads out of the folder, or it names more
                than `MAX_FILES` files.
        """
        parts = PurePath(pattern).parts
        first = next((at for at, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        # the part before the first wildcard decides what is listed, so it is checked before that
        paths = [self.join(str(PurePath(*parts[:first])), "path")]
        if ".." in parts[first:]:
            raise UsageError(f"path {shown(pattern)} has .. after a wildcard; remove the ..")
        for at, part in enumerate(parts[first:], first):
            last = at == len(parts) - 1
            paths = list(self._named(paths, part, pattern, last=last, pass_links=pass_links))
        return sorted(paths)

    def _named(
        self, folders: Iterable[Path], part: str, pattern: str, *, last: bool, pass_links: bool
    ) -> Iterator[Path]:
        """Yields what one part of a glob names in each of the folders."""
        names: dict[Path, None] = {}
        for folder in folders:
            for path in _walk(folder, files=last) if part == "**" else _children(folder, part):
                if is_link(path) and not self.allows(path):
                    if pass_links:
                        continue
                    raise UsageError(
                        f"path {shown(pattern)} names {shown(path)}, a link that leads out of the "
                        "data root; remove it, or allow it with `allow_outside`"
                    )
                names[path] = None
                if len(names) > MAX_FILES:
                    raise UsageError(
                        f"path {shown(pattern)} names more than {MAX_FILES:,} files; name fewer"
                    )
        yield from names


def _walk(folder: Path, *, files: bool) -> Iterator[Path]:
    """Yields a folder, the folders in it at any depth, without entering links, and their files."""
    for name, subfolders, file_names in os.walk(folder):
        # as a shell does, and so that a checkout's `.git` is not searched
        subfolders[:] = [subfolder for subfolder in subfolders if not subfolder.startswith(".")]
        yield Path(name)
        if files:
            yield from (Path(name, file) for file in file_names if not file.startswith("."))


def _children(folder: Path, part: str) -> Iterator[Path]:
    """Yields what one part of a glob, other than `**`, names in a folder."""
    if not glob.has_magic(part):
        if os.path.lexists(folder / part):
            yield folder / part
        return
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:  # a file, or a folder that may not be listed, holds nothing that matches
        return
    for name in names:
        if fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith(".")):
            yield folder / name
