"""What the command line may name: pictures, videos, PDFs, folders of them, JSONL files, stdin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lame_runtime.contract.pages import is_pdf, page_names
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.errors import InputError
from lame_runtime.inputs import VIDEO_SUFFIXES, as_input

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


def read_sources(paths: list[str], texts: list[str], instruction: str | None) -> Iterator[Input]:
    """Inputs in the order they were named, paths before texts.

    A folder gives its pictures, videos and PDFs in the order of their names and says on stderr how many other files
    it holds; a PDF gives one input per page, or the one of `a.pdf#page=3`; a `.jsonl` file (or `-`, stdin) gives one
    input per line, a JSON string or an object as in `inputs.InputLike`; anything else is a picture.

    Raises:
        InputError: a missing path, a folder with nothing to embed, or a line that is not an input.
    """
    for name in paths:
        if not name:
            raise InputError("one of the paths is empty; name a picture, a folder or a .jsonl file")
        path = Path(name)
        if name == "-":
            if sys.stdin is None:
                raise InputError("stdin is closed; pipe JSONL into it or name a file")
            yield from _read_lines(sys.stdin, "stdin", Path(), instruction)
        elif _is_folder(path):
            yield from _read_folder(path, instruction)
        elif path.suffix.lower() == ".jsonl":
            try:
                with path.open(encoding="utf-8-sig") as file:
                    yield from _read_lines(file, name, path.parent, instruction)
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: cannot be read ({error}); check the path") from None
        else:
            yield from _read_file(name, instruction)
    for text in texts:
        yield Input(text=text, instruction=instruction)


def _read_file(name: str, instruction: str | None) -> Iterator[Input]:
    if is_pdf(name):
        for page in page_names(name):
            yield Input(content=(Picture(page),), instruction=instruction)
    elif Path(name).suffix.lower() in VIDEO_SUFFIXES:
        yield Input(content=(Video(name),), instruction=instruction)
    else:
        yield Input(content=(Picture(name),), instruction=instruction)


def _read_folder(folder: Path, instruction: str | None) -> Iterator[Input]:
    known = PICTURES | VIDEO_SUFFIXES | {".pdf"}
    try:
        files = sorted(each for each in folder.iterdir() if not each.name.startswith(".") and not each.is_dir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    found = [each for each in files if each.suffix.lower() in known]
    if not found:
        raise InputError(f"{folder}: a folder without pictures, videos or PDFs ({', '.join(sorted(known))})")
    if left := len(files) - len(found):
        print(f"note: {folder}: left out {left} of {len(files)} files, which are no pictures, videos or PDFs", file=sys.stderr)
    for each in found:
        yield from _read_file(str(each), instruction)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError) as error:  # a name too long for the file system, or with a NUL
        raise InputError(f"{str(path)[:60]}…: not a path ({getattr(error, 'strerror', None) or error}); texts go behind --text") from None


def _read_lines(file: TextIO, name: str, root: Path, instruction: str | None) -> Iterator[Input]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            item = as_input(json.loads(line), root)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number}: not JSON ({error}); write one JSON object or string per line") from None
        except InputError as error:
            raise InputError(f"{name}, line {number}: {error}") from None
        yield item if item.instruction is not None else Input(item.text, item.image, instruction, item.video, item.content)
