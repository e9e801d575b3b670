"""Checks a folder that `Dataset.save_to_disk` wrote, before `datasets` opens it.

Its `state.json` names the Arrow files of the folder, and the library would open any path that
stands there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lame_runtime.errors import InputError, shown
from lame_runtime.files.json_file import read_json

from lame_training.data.sources.data_root import DataRoot

_FILE_LISTS = ("_data_files", "_indices_data_files", "_indices_files")
"""Keys of `state.json`, in all versions of the library, that list files."""


def check_saved_folder(folder: Path, root: DataRoot) -> None:
    """Checks that everything that `datasets` will open lies in the folder.

    Args:
        folder: the folder.
        root: the folder of all data.

    Raises:
        InputError: `state.json` is damaged, or names a file elsewhere.
        StorageError: a file is missing, or not a regular file.
        UsageError: a file is a link that leads out of the data root.
    """
    for name in ("state.json", "dataset_info.json"):
        root.require_file(folder / name)
    try:
        state = read_json(folder / "state.json")
        names = [entry["filename"] for key in _FILE_LISTS for entry in state.get(key) or ()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"{folder / 'state.json'}: cannot be read; save the data set again"
        ) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise InputError(
                f"{folder / 'state.json'}: names {shown(name)!r}, which is not a file in the "
                "folder; save the data set again"
            )
        root.require_file(folder / name)


def check_table(table: Any, folder: Path) -> None:
    """Checks the offsets of a mapped Arrow table; reading with damaged ones crashes the process.

    Args:
        table: a `datasets.Dataset`.
        folder: names the table in the message.

    Raises:
        InputError: the table is damaged.
    """
    import pyarrow as pa

    try:
        # texts are read for this, pictures are not: bytes have offsets only
        table.data.table.validate(full=True)
    except pa.ArrowException:
        raise InputError(
            f"{folder}: its Arrow files are damaged; save the data set again"
        ) from None
