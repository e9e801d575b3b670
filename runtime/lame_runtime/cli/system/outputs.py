"""Refuses an output that would replace what the same command reads, or its other output.

Files are compared as the system knows them, so a link, another spelling and a name below another
mount count as the file that they lead to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lame_runtime.batching import file_names
from lame_runtime.bundle.members import is_in_hub_cache
from lame_runtime.cli.sources import STDIN, is_folder, media_files
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import UsageError, shown

Name = str | os.PathLike[str]


def require_apart(
    outputs: Mapping[str, Path | None],
    bundle: Path,
    engines: Path | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Checks outputs against what the command reads and each other, before any work.

    Args:
        outputs: the outputs by the name of their argument; None if one was not asked for.
        bundle: the bundle that the command reads.
        engines: folder of the plans that it may read.
        checkpoint: the checkpoint that it reads, too.

    Raises:
        UsageError: an output lies in the bundle, the checkpoint or a build of plans, or two are
            one file.
    """
    given = {argument: path for argument, path in outputs.items() if path is not None}
    for argument, path in given.items():
        if _is_below(path, bundle) or _is_in_hub_cache(path, bundle):
            raise UsageError(
                f"`{argument}` {shown(path)} is inside the bundle, whose files would no longer be "
                "those that were exported: choose another file"
            )
        if checkpoint is not None and _is_below(path, checkpoint):
            raise UsageError(
                f"`{argument}` {shown(path)} is inside the checkpoint: choose another file"
            )
        # files beside the builds are not read
        if engines is not None and _is_below(Path(_real_path(path)).parent, engines):
            raise UsageError(
                f"`{argument}` {shown(path)} is inside a build in `engines`: choose another file"
            )
    names = list(given)
    for number, argument in enumerate(names):
        for other in names[:number]:
            if is_same_file(given[argument], given[other]):
                raise UsageError(
                    f"`{argument}` and `{other}` are both {shown(given[argument])}: "
                    "choose two files"
                )


def require_no_source(output: Path, names: Iterable[str]) -> None:
    """Checks the output of `embed` against the paths of the command line, before any work.

    Raises:
        UsageError: the output is one of the inputs, or is read as a file of a folder.
        InputError, StorageError: a folder cannot be read, or contains nothing to embed.
    """
    for name in names:
        if name == STDIN:
            is_input = _is_stdin(output)
        else:
            is_input = is_same_file(name, output) or is_same_file(_without_page(name), output)
            # what does not exist is no file of a folder
            if not is_input and _exists(output) and is_folder(Path(name)):
                is_input = any(is_same_file(path, output) for path in media_files(Path(name))[0])
        if is_input:
            raise _is_input(output)


def without_output(inputs: Iterable[Input], output: Path) -> Iterator[Input]:
    """Yields inputs, such as those of a JSONL file, none of which may name the output.

    Raises:
        UsageError: an input names the output.
    """
    for item in inputs:
        # nothing can be read from an output that does not exist yet
        for name in file_names(item) if _exists(output) else ():
            if is_same_file(name, output) or is_same_file(_without_page(os.fspath(name)), output):
                raise _is_input(output)
        yield item


def is_same_file(first: Name, second: Name) -> bool:
    """Returns whether two names lead to one file, which need not exist."""
    try:
        return Path(first).samefile(second)
    # one of them does not exist, or cannot be the name of a file
    except (OSError, ValueError):
        return _real_path(first) == _real_path(second)


def _is_input(output: Path) -> UsageError:
    return UsageError(f"`output` {shown(output)} is also an input: choose another file")


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def _without_page(name: str) -> str:
    return name.rpartition("#page=")[0] or name


def _is_stdin(output: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(sys.stdin.fileno()), output.stat())
    # stdin is closed or replaced, or there is no such output yet
    except (AttributeError, OSError, ValueError):
        return False


def _is_below(path: Path, folder: Path) -> bool:
    return any(is_same_file(parent, folder) for parent in Path(_real_path(path)).parents)


def _is_in_hub_cache(path: Path, folder: Path) -> bool:
    try:
        return is_in_hub_cache(path, folder)
    # links in a circle, or a name that is too long
    except (OSError, RuntimeError, ValueError):
        return False


def _real_path(name: Name) -> str:
    try:
        return os.path.realpath(name)
    except (OSError, ValueError):
        # the working folder is gone; what is relative to it fails where it is opened
        return os.fspath(name)
