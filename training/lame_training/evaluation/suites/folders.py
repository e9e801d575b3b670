"""Creates the folders that results and caches are written to."""

from __future__ import annotations

from pathlib import Path

from lame_runtime.errors import StorageError


def make_folder(folder: Path, argument: str) -> Path:
    """Creates a folder if it is missing, and returns it.

    Args:
        folder: the folder; missing parents are created, too.
        argument: name of the caller's argument that selects the place, for the message.

    Raises:
        StorageError: the file system refuses, or a file is in the way.
    """
    try:
        # An existing folder is fine: a run that was stopped goes on in it.
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # A file of this name is an OSError as well: `exist_ok` accepts folders only.
        raise StorageError(
            f"{folder}: cannot be created ({error.strerror}); choose another `{argument}`"
        ) from None
    return folder
