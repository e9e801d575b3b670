"""Shows files of the repository as pages of the site, so that no text exists twice.

MkDocs loads this file as a hook (mkdocs.yml). In the repository each of these pages is one link to
its file; on the site the file takes the page's place.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parent.parent
FILES = {
    "development/changelog.md": "CHANGELOG.md",
    "development/index.md": "CONTRIBUTING.md",
    "development/security.md": "SECURITY.md",
    "reference/benchmarks.md": "runtime/BENCHMARKS.md",
    "reference/training-log.md": "training/LOG.md",
}
"""Files of the repository by the page that shows them."""
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Returns the page's Markdown, or the file's if the page stands for one."""
    name = page.file.src_uri
    if name not in FILES:
        return markdown
    source = PurePosixPath(FILES[name])
    text = (ROOT / source).read_text(encoding="utf-8")
    text = _LINK.sub(lambda link: _moved(link, source, name), text)
    # the log links to a folder of results, which is not part of the site
    return re.sub(r"\[([^]]+)\]\(\)", r"\1", text)


def _moved(link: re.Match[str], source: PurePosixPath, page: str) -> str:
    """Returns a link of the file as seen from the page; nothing if its target is not in docs/."""
    parts: list[str] = []
    for part in (source.parent / link["target"]).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    target = "/".join(parts)
    shown = {file: name for name, file in FILES.items()}
    if target in shown:
        target = f"docs/{shown[target]}"
    if not target.startswith("docs/"):
        return ""
    up = "../" * page.count("/")
    return up + target.removeprefix("docs/") + (link["anchor"] or "")
