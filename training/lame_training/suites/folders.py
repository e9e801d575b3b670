"""Folders made on the way to a result, with one line for the user where the disk refuses."""

from __future__ import annotations

from pathlib import Path

from lame_runtime.errors import InputError


def make_folder(folder: Path, flag: str) -> Path:
    """Makes a folder unless it is there; raises `InputError` naming the flag that chooses another place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another {flag}") from None
    return folder
