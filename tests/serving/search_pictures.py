"""Serves an index of `examples/pictures`, and takes pictures of its search page.

PYTHONPATH=runtime python tests/serving/search_pictures.py docs/assets
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser_page import DESKTOP, PHONE, OpenPage, chromium
from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.search import Index
from lame_runtime.search.index_writer import write_index
from lame_runtime.search.sources.array_source import ArraySource
from running_server import TINY, load_tiny, running

PICTURES = TINY.parent / "pictures"


@contextmanager
def picture_index(paths: list[Path]) -> Iterator[Index]:
    """Makes an index of pictures with the number of their digits as a column."""
    with tempfile.TemporaryDirectory() as folder, load_tiny() as encoder:
        assert encoder.bundle is not None
        facts = VectorFacts(
            encoder.bundle.manifest.sha256, encoder.graph, "document", None, encoder.dim, "float32"
        )
        rows = [{"path": str(path), "digits": len(path.stem)} for path in paths]
        target = Path(folder, "index")
        write_index(ArraySource(encoder.encode_document(paths), rows, facts), target)
        yield Index.open(target)


def main(folder: Path) -> None:
    """Writes `search-page-desktop.png` and `search-page-phone.png`."""
    with (
        picture_index(sorted(PICTURES.glob("*.png"))) as index,
        running(index=index) as server,
        chromium() as browser,
    ):
        for name, size in {"desktop": DESKTOP, "phone": PHONE}.items():
            page = OpenPage(browser, server.url, size).open()
            page.tab.get_by_label("Text").fill("digits that add up to seven")
            page.tab.locator("#results img").nth(20).wait_for()
            page.tab.screenshot(path=folder / f"search-page-{name}.png")
            page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
