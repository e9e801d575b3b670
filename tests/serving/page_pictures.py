"""Takes pictures of the server's page: `docs/assets/serve-page.png`, and one as on a phone.

PYTHONPATH=runtime python tests/serving/page_pictures.py docs/assets
"""

from __future__ import annotations

import sys
from pathlib import Path

from browser_page import DESKTOP, PHONE, OpenPage, chromium
from PIL import Image
from running_server import TINY, running

PICTURES = TINY.parent / "pictures"
BELOW = 24
"""Pixels between the times and the lower edge of the picture for the documentation."""


def fill(page: OpenPage) -> None:
    """Compares texts with pictures of digits, as the tiny bundle knows them."""
    page.write("seven", "digits that add up to seven", "What do the digits add up to?")
    page.item(3).get_by_label("Add a picture").set_input_files(PICTURES / "34.png")
    names = ["52.png", "61.png", "88.png"]
    page.tab.get_by_label("Add pictures").set_input_files([PICTURES / name for name in names])
    page.item(6).get_by_alt_text(names[-1]).wait_for()
    page.press_compare()
    page.matrix()


def main(folder: Path) -> None:
    """Writes `serve-page.png`, `serve-page-desktop.png` and `serve-page-phone.png`."""
    with running() as server, chromium() as browser:
        for name, size in {"desktop": DESKTOP, "phone": PHONE}.items():
            page = OpenPage(browser, server.url, size).open()
            fill(page)
            page.tab.screenshot(path=folder / f"serve-page-{name}.png", full_page=True)
            if size == DESKTOP:
                bottom = page.tab.evaluate(
                    "document.querySelector('#times').getBoundingClientRect().bottom + scrollY"
                )
                with Image.open(folder / "serve-page-desktop.png") as whole:
                    part = whole.convert("RGB").crop((0, 0, size[0], int(bottom) + BELOW))
                # a palette is enough for a page, and a quarter of the bytes
                part.quantize(256, Image.Quantize.MAXCOVERAGE).save(
                    folder / "serve-page.png", optimize=True
                )
            page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
