"""Reads the inputs of a command line: pictures, videos, PDFs, folders, JSONL files and stdin."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lame_runtime.cli.system.handed_over import (
    BYTE_ORDER_MARK,
    HEAD_BYTES,
    MAX_STREAM,
    is_handed_over,
    is_jsonl,
    is_video,
    open_handed_over,
)
from lame_runtime.cli.system.streams import print_note
from lame_runtime.contract.media.pages import is_pdf, page_names
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.errors import InputError, StorageError, UsageError, first_line, shown
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.regular import open_regular
from lame_runtime.inputs import VIDEO_SUFFIXES, as_input

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"}
)
STDIN = "-"
MAX_LINE = 64 << 20
"""Largest JSONL line in bytes; a line may hold a picture as a `data:` URI."""

_URL = re.compile(r"data:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def read_sources(paths: list[str], texts: list[str]) -> Iterator[Input]:
    """Yields inputs in the order of the arguments, paths before texts.

    A folder yields its pictures, videos and PDFs sorted by name; a note on stderr counts the files
    that were skipped. A PDF yields one input per page, or a single one for `a.pdf#page=3`. A
    `.jsonl` file, or `-` for stdin, yields one input per line: a JSON string or an object
    (`lame_runtime.inputs.InputLike`). What a shell hands over as `<(…)` is JSONL, a picture or a
    video, as its first bytes tell. Any other file is read as a picture. Pipes, sockets and devices
    with a name of their own are refused, because reading them might never end.

    Raises:
        InputError: a line is not a valid input, or a folder contains nothing to embed.
        StorageError: a file or folder cannot be read, or is no regular file.
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
            yield from _read_lines(sys.stdin.buffer, "stdin", Path())
        elif is_handed_over(name):
            yield from _read_stream(name)
        elif _URL.match(name) and not _is_present(name):
            # decoded or refused as everywhere else
            yield as_input({"image": name})
        elif is_folder(path):
            yield from _read_folder(path)
        elif path.suffix.lower() == ".jsonl":
            with _opened(name) as file:
                yield from _read_lines(file, name, Path(_unmistakable(str(path.parent))))
        else:
            yield from _read_file(name)
    for text in texts:
        yield Input(text=text)


def _read_file(name: str) -> Iterator[Input]:
    name = _unmistakable(name)
    path = name.rpartition("#page=")[0] if is_pdf(name) and "#page=" in name else name
    # a pipe or a device is refused here, before anything waits for it; a missing file where it is
    # decoded, whose message has more to say
    if Path(path).exists():
        _opened(path).close()
    if is_pdf(name):
        for page in page_names(name):
            yield Input(content=(Picture(page),))
    elif Path(name).suffix.lower() in VIDEO_SUFFIXES:
        yield Input(content=(Video(name),))
    else:
        yield Input(content=(Picture(name),))


def _opened(name: str) -> IO[bytes]:
    """Opens a regular file; raises `StorageError` for anything else, and if it is not readable."""
    try:
        return open_regular(name)
    except OSError as error:
        reason = error.strerror or first_line(error)
        # "is a pipe, not a regular file" is a sentence already
        if not reason.startswith("is "):
            reason = f"cannot be read ({reason})"
        raise StorageError(f"{shown(name)}: {reason}; check the path") from None


def _read_stream(name: str) -> Iterator[Input]:
    """Yields what a shell has opened for this process: JSONL, a picture or a video."""
    try:
        with open_handed_over(name) as file:
            head = file.read(HEAD_BYTES)
            if is_jsonl(head):
                yield from _read_lines(file, name, Path(), head)
                return
            data = head + file.read(MAX_STREAM + 1 - len(head))
    except OSError as error:
        raise StorageError(f"{shown(name)}: cannot be read ({error.strerror})") from None
    if not data:
        raise StorageError(f"{shown(name)}: is empty; check the command that writes into it")
    if len(data) > MAX_STREAM:
        raise StorageError(
            f"{shown(name)}: has more than {MAX_STREAM:,} bytes; store it in a file first"
        )
    yield Input(content=(Video(data) if is_video(data) else Picture(data),))


def _is_present(name: str) -> bool:
    """Returns whether a name like that of a URL is one of a file or folder, or a page of a file."""
    # False for what cannot be a name, such as a long `data:` URI
    names = (name, name.rpartition("#page=")[0]) if is_pdf(name) else (name,)
    return any(map(os.path.exists, filter(None, names)))


def _unmistakable(name: str) -> str:
    """Returns the name of a file so that nothing takes it for a URL or a `data:` URI."""
    return f".{os.sep}{name}" if _URL.match(name) else name


def _read_folder(folder: Path) -> Iterator[Input]:
    media, total = media_files(folder)
    if skipped := total - len(media):
        print_note(
            f"note: {shown(folder)}: left out {skipped} of {total} files, "
            "which are no pictures, videos or PDFs"
        )
    for path in media:
        yield from _read_file(str(path))


def media_files(folder: Path) -> tuple[list[Path], int]:
    """Returns the pictures, videos and PDFs of a folder by name, and the number of all its files.

    Raises:
        InputError: there are none.
        StorageError: the folder cannot be listed.
    """
    suffixes = PICTURE_SUFFIXES | VIDEO_SUFFIXES | {".pdf"}
    try:
        # hidden files belong to the operating system, such as .DS_Store
        files = sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir()
        )
    except OSError as error:
        raise StorageError(
            f"{shown(folder)}: cannot be listed ({error.strerror}); check its permissions"
        ) from None
    media = [path for path in files if path.suffix.lower() in suffixes]
    if not media:
        raise InputError(
            f"{shown(folder)}: a folder without pictures, videos or PDFs "
            f"({', '.join(sorted(suffixes))})"
        )
    return media, len(files)


def is_folder(path: Path) -> bool:
    """Returns whether a path is a folder.

    Raises:
        StorageError: the permissions of its folder do not tell.
        UsageError: it is not a path.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise StorageError(
            f"{shown(path)}: cannot be read ({error.strerror}); check the permissions of its folder"
        ) from None
    except (OSError, ValueError) as error:
        # too long for a file name, or contains a NUL: most likely a text
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown(path)}: not a path ({reason}); give texts as `text`") from None


def _read_lines(file: IO[bytes], name: str, root: Path, head: bytes = b"") -> Iterator[Input]:
    """Yields the inputs of JSONL; `head` is what was read of it already."""
    for number, line in enumerate(_raw_lines(file, head), 1):
        if len(line) > MAX_LINE and len(line.rstrip(b"\n")) > MAX_LINE:
            raise InputError(
                f"{shown(name)}, line {number}: longer than {MAX_LINE:,} bytes; "
                "write one JSON object or string per line"
            )
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)  # noqa: PLW2901
        # many editors leave an empty last line
        if not line.strip():
            continue
        # not for the lines before, of which there may be millions
        place = f"{shown(name)}, line {number}"
        try:
            yield as_input(parse_json(line.decode("utf-8")), root)
        except ValueError as error:
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
            raise InputError(
                f"{place}: {reason} ({shown(first_line(error), 200)}); "
                "write one JSON object or string per line"
            ) from None
        except InputError as error:
            raise InputError(f"{place}: {error}") from None


def _raw_lines(file: IO[bytes], head: bytes) -> Iterator[bytes]:
    """Yields lines of at most `MAX_LINE` + 1 bytes; a longer line is cut there."""
    *lines, begun = head.split(b"\n")
    yield from lines
    try:
        yield begun + file.readline(MAX_LINE + 1)
        while line := file.readline(MAX_LINE + 1):
            yield line
    except OSError as error:
        raise StorageError(f"the JSONL cannot be read on ({error.strerror})") from None
