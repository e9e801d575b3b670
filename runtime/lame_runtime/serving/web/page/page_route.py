"""Sends the page at `/`, with a policy that lets nothing but its own style and script run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(__file__).parent
_INLINE = re.compile(r"<(?P<tag>style|script)\b[^>]*>(?P<text>.*?)</(?P=tag)>", re.DOTALL)


def page_route(*, is_search: bool = False) -> Callable[[Request], Awaitable[Response]]:
    """Returns the endpoint of the page, which holds no data and needs no key.

    Args:
        is_search: send the page of search instead of that of similarities.
    """
    file = _FOLDER / ("search.html" if is_search else "index.html")
    page = file.read_text(encoding="utf-8")
    headers = {
        "content-security-policy": content_policy(page),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        # the next version of the server brings another page
        "cache-control": "no-cache",
    }

    async def person_page(_: Request) -> Response:
        return Response(page, headers=headers, media_type="text/html")

    return person_page


def content_policy(page: str) -> str:
    """Returns the Content-Security-Policy of a page.

    Its inline styles and scripts are allowed by their SHA-256, so that what somebody might smuggle
    into the page does not run. Trusted Types make browsers refuse HTML made from strings.

    Args:
        page: the HTML.
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for match in _INLINE.finditer(page):
        digest = hashlib.sha256(match["text"].encode("utf-8")).digest()
        hashes[match["tag"]].append(f"'sha256-{base64.b64encode(digest).decode('ascii')}'")
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(hashes["script"]) or "'none'",
        "style-src": " ".join(hashes["style"]) or "'none'",
        # thumbnails need the key, so the page that shows them fetches them by itself
        "img-src": "data: blob:" if "createObjectURL" in page else "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())
