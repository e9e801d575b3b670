"""Drives the page at `/` in Debian's Chromium, and watches what it does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, sync_playwright

MOST_MILLISECONDS = 20_000
DESKTOP, PHONE = (1280, 900), (390, 844)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Runs Chromium, without a window.

    While it runs, this thread cannot run an event loop of its own (`asyncio.run`): keep it to the
    tests of one module.
    """
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


class OpenPage:
    """The page of a server in a tab of its own, and everything it logged and asked for.

    Args:
        browser: the browser.
        url: address of the server.
        size: width and height of the window in CSS pixels.
        options: options of the tab, such as `color_scheme`.
    """

    def __init__(
        self, browser: Browser, url: str, size: tuple[int, int] = DESKTOP, **options: Any
    ) -> None:
        viewport: Any = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, **options)
        context.set_default_timeout(MOST_MILLISECONDS)
        context.grant_permissions(["clipboard-read"], origin=url)
        self.context = context
        self.tab: Page = context.new_page()
        self.problems: list[str] = []
        """Errors in the console, without the browser's own lines about answers of 4xx and 5xx."""
        self.requests: list[Request] = []
        self.tab.on("console", self._logged)
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.on("request", self._asked)
        self.url = url

    def open(self) -> OpenPage:
        """Opens the page."""
        self.tab.goto(f"{self.url}/")
        return self

    def close(self) -> None:
        """Closes the tab."""
        self.context.close()

    def item(self, number: int) -> Locator:
        """Returns a box by its number, from 1."""
        return self.tab.get_by_role("group", name=f"Item {number}", exact=True)

    def write(self, *texts: str) -> None:
        """Fills the boxes that are there."""
        for number, text in enumerate(texts, start=1):
            self.item(number).get_by_label("Text").fill(text)

    def press_compare(self) -> None:
        """Presses the button."""
        self.tab.get_by_role("button", name="Compare").click()

    def matrix(self) -> npt.NDArray[np.float64]:
        """Returns the numbers of the matrix (n, n), once they are there."""
        self.tab.locator("#matrix td.same").first.wait_for()
        rows = self.tab.locator("#matrix tbody tr").all()
        cells = [row.locator("td").all_inner_texts() for row in rows]
        return np.array([[float(cell.replace("−", "-")) for cell in row] for row in cells])

    def drop(self, target: str, name: str, data: bytes, kind: str = "image/png") -> None:
        """Drops a file on an element."""
        event = {"dataTransfer": self._files(name, data, kind)}
        self.tab.dispatch_event(target, "dragover", event)
        self.tab.dispatch_event(target, "drop", event)

    def paste(self, target: str, name: str, data: bytes) -> None:
        """Pastes a picture into an element."""
        self.tab.locator(target).evaluate(
            "(node, clipboardData) => node.dispatchEvent("
            "new ClipboardEvent('paste', { clipboardData, bubbles: true }))",
            self._files(name, data, "image/png"),
        )

    def bodies(self) -> list[Any]:
        """Returns the JSON of the requests for vectors."""
        return [request.post_data_json for request in self.requests if request.method == "POST"]

    def foreign(self) -> list[str]:
        """Returns the addresses of requests to anything but the server."""
        addresses = [request.url for request in self.requests]
        return [url for url in addresses if not url.startswith((f"{self.url}/", "data:"))]

    def scrolls_sideways(self) -> bool:
        """Returns whether the page is wider than the window."""
        wide: bool = self.tab.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return wide

    def _files(self, name: str, data: bytes, kind: str) -> Any:
        return self.tab.evaluate_handle(
            """([name, data, type]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([Uint8Array.from(data)], name, { type }));
                return transfer;
            }""",
            [name, list(data), kind],
        )

    def _asked(self, request: Request) -> None:
        self.requests.append(request)

    def _logged(self, message: ConsoleMessage) -> None:
        # Chromium logs every answer of 4xx and 5xx, also those that the page expects
        is_answer = message.text.startswith("Failed to load resource: the server responded with")
        if message.type in ("error", "warning") and not is_answer:
            self.problems.append(message.text)
