"""Reads the inputs of a command line: pictures, videos, PDFs, folders, JSONL files and stdin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lame_runtime.contract.media.pages import is_pdf, page_names
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.errors import InputError, StorageError, UsageError
from lame_runtime.inputs import VIDEO_SUFFIXES, as_input

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
)
STDIN = "-"


def read_sources(paths: list[str], texts: list[str]) -> Iterator[Input]:
    """Yields inputs in the order of the arguments, paths before texts.

    A folder yields its pictures, videos and PDFs sorted by name; a note on stderr counts the files
    that were skipped. A PDF yields one input per page, or a single one for `a.pdf#page=3`. A
    `.jsonl` file, or `-` for stdin, yields one input per line: a JSON string or an object
    (`lame_runtime.inputs.InputLike`). Any other file is read as a picture.

    Raises:
        InputError: a line is not a valid input, or a folder contains nothing to embed.
        StorageError: a file or folder cannot be read.
        UsageError: a path is empty or not a valid path.
    """
    for name in paths:
        if not name:
            raise UsageError("one of the paths is empty; name a picture, a folder or a .jsonl file")
        path = Path(name)
        # a file with the name "-" can be given as "./-"
        if name == STDIN:
            # None if the process was started with a closed stdin
            if sys.stdin is None:
                raise UsageError("stdin is closed; pipe JSONL into it or name a file")
            yield from _read_lines(sys.stdin, "stdin", Path())
        elif _is_folder(path):
            yield from _read_folder(path)
        elif path.suffix.lower() == ".jsonl":
            try:
                # utf-8-sig, because Windows editors save a byte order mark
                with path.open(encoding="utf-8-sig") as file:
                    yield from _read_lines(file, name, path.parent)
            except (OSError, UnicodeDecodeError) as error:
                raise StorageError(f"{path}: cannot be read ({error}); check the path") from None
        else:
            yield from _read_file(name)
    for text in texts:
        yield Input(text=text)


def _read_file(name: str) -> Iterator[Input]:
    if is_pdf(name):
        for page in page_names(name):
            yield Input(content=(Picture(page),))
    elif Path(name).suffix.lower() in VIDEO_SUFFIXES:
        yield Input(content=(Video(name),))
    else:
        yield Input(content=(Picture(name),))


def _read_folder(folder: Path) -> Iterator[Input]:
    suffixes = PICTURE_SUFFIXES | VIDEO_SUFFIXES | {".pdf"}
    try:
        # hidden files belong to the operating system, such as .DS_Store
        files = sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir()
        )
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be listed ({error.strerror}); check its permissions"
        ) from None
    media = [path for path in files if path.suffix.lower() in suffixes]
    if not media:
        raise InputError(
            f"{folder}: a folder without pictures, videos or PDFs ({', '.join(sorted(suffixes))})"
        )
    if skipped := len(files) - len(media):
        print(
            f"note: {folder}: left out {skipped} of {len(files)} files, "
            "which are no pictures, videos or PDFs",
            file=sys.stderr,
        )
    for path in media:
        yield from _read_file(str(path))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError) as error:
        # too long for a file name, or contains a NUL: most likely a text
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{str(path)[:60]}…: not a path ({reason}); give texts as `text`"
        ) from None


def _read_lines(file: TextIO, name: str, root: Path) -> Iterator[Input]:
    for number, line in enumerate(file, 1):
        # many editors leave an empty last line
        if not line.strip():
            continue
        try:
            yield as_input(json.loads(line), root)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{name}, line {number}: not JSON ({error}); "
                "write one JSON object or string per line"
            ) from None
        except InputError as error:
            raise InputError(f"{name}, line {number}: {error}") from None
