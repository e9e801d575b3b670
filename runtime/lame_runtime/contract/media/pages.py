"""A page of a PDF as a picture, rendered with pypdfium2 (`pip install 'lame-runtime[pdf]'`).

A page is named as in a URL, `report.pdf#page=3`, counted from 1. A PDF of one page needs no number.
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
"""A PDF's unit of length is a point."""
MAX_DPI = 300
"""Finest rendering; a small page would otherwise be enlarged far beyond the detail it holds."""


def is_pdf(name: str) -> bool:
    """Returns whether a path names a PDF or one of its pages."""
    return _PAGE.fullmatch(name) is not None


def page_names(name: str) -> list[str]:
    """Returns one name for each page of the PDF `name`; `name` itself if it has a page number.

    Raises:
        InputError: not a PDF's name, no such file, not a PDF, a password, or pypdfium2 is missing.
    """
    path, page = _split(name)
    if page is not None:
        return [name]
    with _open(path) as document:
        return [f"{path}#page={number}" for number in range(1, len(document) + 1)]


def render_page(name: str, rules: ImageRules) -> Image.Image:
    """Renders a page as RGB.

    Its area is about twice the pixel budget, so that the resize has something to average, and at
    most 300 dpi.

    Raises:
        InputError: no such file, not a PDF, a password, no such page, several pages and no number,
            or pypdfium2 is missing.
    """
    path, page = _split(name)
    with _open(path) as document:
        count = len(document)
        if page is None and count > 1:
            raise InputError(f"{path}: has {count} pages; say which: {path}#page=1")
        number = 1 if page is None else page
        if not 1 <= number <= count:
            raise InputError(f"{name}: has {count} pages; use 1 to {count}")
        return _rendered(document, number, name, rules)


def _rendered(document: Any, number: int, name: str, rules: ImageRules) -> Image.Image:
    try:
        page = document[number - 1]
        width, height = page.get_size()
    except RuntimeError as error:  # pypdfium2's own error class derives from it
        raise InputError(
            f"{name}: the page cannot be read ({error}); the PDF may be damaged"
        ) from None
    if not (width > 0 and height > 0 and math.isfinite(width * height)):
        raise InputError(f"{name}: the page has no area; choose another")
    # `scale` is pixels per point.
    scale = min(math.sqrt(2 * rules.max_pixels / (width * height)), MAX_DPI / POINTS_PER_INCH)
    try:
        picture: Image.Image = page.render(scale=scale).to_pil()
    except RuntimeError as error:
        raise InputError(
            f"{name}: the page cannot be rendered ({error}); the PDF may be damaged"
        ) from None
    return picture.convert("RGB")


def _split(name: str) -> tuple[str, int | None]:
    """Splits a name into the PDF's path and the page's number, None without one."""
    match = _PAGE.fullmatch(name)
    if match is None:
        raise InputError(f"{name}: does not name a PDF; give a path that ends in .pdf")
    return match["path"], None if match["page"] is None else int(match["page"])


def _open(path: str) -> Any:
    """Opens a PDF; the document is a context manager."""
    try:
        import pypdfium2  # an optional dependency
    except ImportError:
        raise InputError(
            f"{path}: reading a PDF needs pypdfium2: pip install 'lame-runtime[pdf]'"
        ) from None
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise InputError(f"{path}: the PDF needs a password; remove it first") from None
        raise InputError(
            f"{path}: the PDF cannot be read ({str(error).splitlines()[0]}); "
            "it may be truncated or damaged"
        ) from None
