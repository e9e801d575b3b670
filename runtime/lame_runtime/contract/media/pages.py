"""A page of a PDF as a picture, rendered with pypdfium2 (`pip install 'lame-runtime[pdf]'`).

A page is named as in a URL, `report.pdf#page=3`, counted from 1. A PDF of one page needs no number.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image

from lame_runtime.contract.media.decoding_limits import MAX_ASPECT_RATIO
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError, first_line, shown
from lame_runtime.files.fork_lock import ForkLock
from lame_runtime.files.urls import is_url, open_media, url_error

_PAGE = re.compile(r"(?P<path>.+\.pdf)(?:#page=(?P<page>[0-9]+))?", re.IGNORECASE | re.DOTALL)
POINTS_PER_INCH = 72
"""A PDF's unit of length is a point."""
MAX_DPI = 300
"""Finest rendering; a small page would otherwise be enlarged far beyond the detail it holds."""
MAX_PAGES = 10_000
"""Most pages of a PDF that is embedded as a whole."""
MAX_EMBEDDED_IMAGES = 10_000
"""Most pictures on one page."""
PDF_MARK = b"%PDF-"
"""First bytes of a PDF."""
_MOST_DIGITS = 9
"""Longer page numbers are out of range, and Python converts no number of thousands of digits."""
# PDFium is not made for threads: two at a time crash the process
_lock = ForkLock()


def is_pdf(name: str) -> bool:
    """Returns whether a path names a PDF or one of its pages."""
    return _PAGE.fullmatch(name) is not None


def page_names(name: str) -> list[str]:
    """Returns one name for each page of the PDF `name`; `name` itself if it has a page number.

    Raises:
        InputError: not a PDF's name, no such file, a URL, not a PDF, a password, more than
            `MAX_PAGES` pages, or pypdfium2 is missing.
    """
    path, page = _split(name)
    if page is not None:
        return [name]
    with _opened_file(path) as document:
        count = len(document)
    if count > MAX_PAGES:
        raise InputError(
            f"{shown(path)}: has {count:,} pages, the limit is {MAX_PAGES:,}; "
            "name the pages to embed, such as a.pdf#page=1"
        )
    return [f"{path}#page={number}" for number in range(1, count + 1)]


def render_page(name: str, rules: ImageRules) -> Image.Image:
    """Renders a page as RGB.

    Its area is about twice the pixel budget, so that the resize has something to average, at most
    300 dpi, and at most `max_source_pixels`.

    Raises:
        InputError: no such file, a URL, not a PDF, a password, no such page, several pages and no
            number, pictures too large to decode, or pypdfium2 is missing.
    """
    path, page = _split(name)
    with _opened_file(path) as document:
        return _rendered(document, page, shown(path), rules)


def render_bytes(data: bytes, name: str, rules: ImageRules) -> Image.Image:
    """Renders the only page of a PDF as RGB.

    Args:
        data: the PDF.
        name: how messages name it.
        rules: as for `render_page`.

    Raises:
        InputError: as `render_page`.
    """
    with _opened(io.BytesIO(data), name) as document:
        return _rendered(document, None, name, rules)


def _rendered(document: Any, number: int | None, name: str, rules: ImageRules) -> Image.Image:
    count = len(document)
    if number is None and count > 1:
        raise InputError(f"{name}: has {count} pages; choose one, as in a.pdf#page=1")
    number = 1 if number is None else number
    if not 1 <= number <= count:
        raise InputError(f"{name}: page {number} is out of range; use 1 to {count}")
    page = document[number - 1]
    try:
        width, height = page.get_size()
        if not (width > 0 and height > 0 and math.isfinite(width * height)):
            raise InputError(f"{name}: the page has no area; choose another")
        # a strip of 100 million points and a fraction of one pixel would be rendered a pixel high
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise InputError(
                f"{name}: one side of the page is over {MAX_ASPECT_RATIO} times the other; crop it"
            )
        _check_embedded(page, name, rules)
        area = min(2 * rules.max_pixels, rules.max_source_pixels)
        # pixels per point
        scale = min(math.sqrt(area / (width * height)), MAX_DPI / POINTS_PER_INCH)
        bitmap = page.render(scale=scale)
        try:
            picture: Image.Image = bitmap.to_pil()
            # a copy in any case, because some bitmaps share their memory with the picture
            return picture.copy() if picture.mode == "RGB" else picture.convert("RGB")
        finally:
            bitmap.close()
    finally:
        page.close()


def _check_embedded(page: Any, name: str, rules: ImageRules) -> None:
    """Refuses a page with a picture that is too large, which PDFium would decode as a whole."""
    from pypdfium2 import raw

    images = page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=8)
    for number, image in enumerate(images):
        width, height = (image.get_px_size if hasattr(image, "get_px_size") else image.get_size)()
        if width * height > rules.max_source_pixels or number >= MAX_EMBEDDED_IMAGES:
            raise InputError(
                f"{name}: the page holds a picture of {width * height / 1e6:.0f} megapixels, the "
                f"limit is {rules.max_source_pixels / 1e6:.0f}; save the PDF with smaller pictures"
                if number < MAX_EMBEDDED_IMAGES
                else f"{name}: the page holds more than {MAX_EMBEDDED_IMAGES:,} pictures; use fewer"
            )


def _split(name: str) -> tuple[str, int | None]:
    """Splits a name into the PDF's path and the page's number, None without one."""
    match = _PAGE.fullmatch(name)
    if match is None:
        raise InputError(f"{shown(name)}: does not name a PDF; give a path that ends in .pdf")
    path, digits = match["path"], match["page"]
    if is_url(path):
        raise url_error(name)
    if digits is None:
        return path, None
    digits = digits.lstrip("0") or "0"
    return path, int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


@contextmanager
def _opened_file(path: str) -> Iterator[Any]:
    with open_media(path, "PDF") as file, _opened(file, shown(path)) as document:
        yield document


@contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[Any]:
    """Opens a PDF for one thread at a time, and translates errors inside the `with`, too."""
    try:
        import pypdfium2  # an optional dependency
    except ImportError:
        raise InputError(
            f"{name}: reading a PDF needs pypdfium2: pip install 'lame-runtime[pdf]'"
        ) from None
    with _lock:
        document = None
        try:
            document = pypdfium2.PdfDocument(file)
            yield document
        except InputError:
            raise
        except MemoryError:
            raise InputError(
                f"{name}: there is not enough memory to render the page; lower `max_pixels`"
            ) from None
        except OSError as error:
            reason = shown(error.strerror or first_line(error))
            raise InputError(
                f"{name}: the PDF cannot be read ({reason}); copy the file and try again"
            ) from None
        # pypdfium2's own error is a RuntimeError; a damaged page may raise others
        except Exception as error:
            if "password" in str(error).lower():
                raise InputError(f"{name}: the PDF needs a password; remove it first") from None
            raise InputError(
                f"{name}: the PDF cannot be read ({shown(first_line(error))}); "
                "it may be truncated or damaged"
            ) from None
        finally:
            if document is not None:
                document.close()
