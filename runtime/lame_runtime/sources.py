"""What the command line may name: pictures, folders of pictures, JSONL files, stdin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from lame_runtime.contract.prompts import Input
from lame_runtime.encoder import as_input
from lame_runtime.errors import InputError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


def read_sources(paths: list[str], texts: list[str], instruction: str | None) -> Iterator[Input]:
    """Inputs in the order they were named, paths before texts.

    A folder gives its pictures in the order of their names, a `.jsonl` file (or `-`, stdin) one input per
    line, either a JSON string or an object with `text`, `image`, `instruction`; anything else is a picture.

    Raises:
        InputError: a missing path, a folder without pictures, or a line that is not an input.
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
            found = sorted(each for each in path.iterdir() if each.suffix.lower() in PICTURES)
            if not found:
                raise InputError(f"{path}: a folder without pictures ({', '.join(sorted(PICTURES))})")
            yield from (Input(image=each, instruction=instruction) for each in found)
        elif path.suffix.lower() == ".jsonl":
            try:
                with path.open(encoding="utf-8-sig") as file:
                    yield from _read_lines(file, name, path.parent, instruction)
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: cannot be read ({error}); check the path") from None
        else:
            yield Input(image=path, instruction=instruction)
    for text in texts:
        yield Input(text=text, instruction=instruction)


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
            raw: Any = json.loads(line)
            item = as_input(raw)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number}: not JSON ({error}); write one JSON object or string per line") from None
        except InputError as error:
            raise InputError(f"{name}, line {number}: {error}") from None
        image = str(root / item.image) if isinstance(item.image, str) else item.image
        yield Input(item.text, image, instruction if item.instruction is None else item.instruction)
