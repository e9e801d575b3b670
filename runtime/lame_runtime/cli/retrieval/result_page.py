"""Results of a search as one HTML file with thumbnails, without a script or another file."""

from __future__ import annotations

import base64
import html
from typing import Any

from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError, StorageError, shown
from lame_runtime.search import Index
from lame_runtime.search.thumbnails import thumbnail

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ margin: 1.5rem auto; max-width: 76rem; padding: 0 1rem; overflow-wrap: anywhere; }}
ol {{ display: grid; gap: 1rem; padding: 0; list-style: none;
 grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }}
li {{ border: 1px solid #8888; border-radius: .5rem; padding: .75rem; }}
img {{ display: block; width: 100%; height: 10rem; object-fit: contain; margin-bottom: .5rem; }}
b {{ font-variant-numeric: tabular-nums; }} p {{ margin: .25rem 0; font-size: .875rem; }}
</style></head><body><h1>{title}</h1><ol>
{items}
</ol></body></html>
"""


def result_page(index: Index, query: str, results: list[dict[str, Any]], rules: ImageRules) -> str:
    """Returns the page.

    Args:
        index: the index, for its files.
        query: what was searched for.
        results: rows with their scores.
        rules: limits on pictures.
    """
    items = "\n".join(_item(index, result, rules) for result in results)
    return _PAGE.format(title=html.escape(query), items=items)


def _item(index: Index, result: dict[str, Any], rules: ImageRules) -> str:
    try:
        data, problem = thumbnail(index, result["row"], rules), ""
    # a missing file is no reason to lose the other results
    except (InputError, StorageError) as error:
        data, problem = None, str(error)
    image = ""
    if data is not None:
        image = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
    lines = [
        f"<p>{html.escape(f'{key}: {shown(value, 200)}')}</p>"
        for key, value in result.items()
        if key not in ("score", "row") and value is not None
    ]
    lines += [f"<p><em>{html.escape(problem)}</em></p>"] if problem else []
    return f"<li>{image}<b>{result['score']:.4f}</b>{''.join(lines)}</li>"
