"""A page of a PDF as a picture, rendered with pypdfium2 (`pip install 'lame-runtime[pdf]'`).

A page is named as in a URL, `report.pdf#page=3`, counted from 1; a PDF of one page needs no number.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from PIL import Image

from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError

_PAGE = re.compile(r"(?P<path>.+\.pdf)(?:#page=(?P<page>\d+))?", re.IGNORECASE | re.DOTALL)
POINTS_PER_INCH = 72
MAX_DPI = 300


def is_pdf(name: str) -> bool:
    """Whether a path names a PDF or one of its pages."""
    return _PAGE.fullmatch(name) is not None


def page_names(name: str) -> list[str]:
    """One name per page of the PDF at `name`, or `name` itself where it already says which page; raises `InputError`."""
    match = _PAGE.fullmatch(name)
    assert match is not None
    if match["page"]:
        return [name]
    with _open(match["path"]) as document:
        return [f"{match['path']}#page={number}" for number in range(1, len(document) + 1)]


def render_page(name: str, rules: ImageRules) -> Image.Image:
    """The page as RGB, about twice the pixel budget large so that the resize has something to average, 300 dpi at most.

    Raises:
        InputError: no such file, not a PDF, a password, no such page, several pages and no number, pypdfium2 missing.
    """
    match = _PAGE.fullmatch(name)
    assert match is not None
    path = match["path"]
    with _open(path) as document:
        count = len(document)
        if not match["page"] and count > 1:
            raise InputError(f"{path}: has {count} pages; say which: {path}#page=1")
        number = int(match["page"] or 1)
        if not 1 <= number <= count:
            raise InputError(f"{name}: has {count} pages; use 1 to {count}")
        try:
            page = document[number - 1]
            width, height = page.get_size()
        except RuntimeError as error:  # pypdfium2's own error is one
            raise InputError(f"{name}: the page cannot be read ({error}); the PDF may be damaged") from None
        if not (width > 0 and height > 0 and math.isfinite(width * height)):
            raise InputError(f"{name}: the page has no area; choose another")
        scale = min(math.sqrt(2 * rules.max_pixels / (width * height)), MAX_DPI / POINTS_PER_INCH)
        try:
            picture = page.render(scale=scale).to_pil()
        except RuntimeError as error:
            raise InputError(f"{name}: the page cannot be rendered ({error}); the PDF may be damaged") from None
        assert isinstance(picture, Image.Image)
        return picture.convert("RGB")


def _open(path: str) -> Any:
    """An opened document, a context manager."""
    try:
        import pypdfium2
    except ImportError:
        raise InputError(f"{path}: reading a PDF needs pypdfium2: pip install 'lame-runtime[pdf]'") from None
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise InputError(f"{path}: the PDF needs a password; remove it first") from None
        raise InputError(f"{path}: the PDF cannot be read ({str(error).splitlines()[0]}); it may be truncated or damaged") from None
