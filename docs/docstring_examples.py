"""Griffe extension: shows the section `Example:` of a docstring as code.

The parser of Google-style docstrings knows `Examples:` and takes the singular for a note.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_TITLE = re.compile(r"^( *)Example:$", re.MULTILINE)


class DocstringExamples(griffe.Extension):
    """Gives the section the title that the parser knows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of an object once the object has been read."""
        if obj.docstring is not None:
            obj.docstring.value = _TITLE.sub(r"\1Examples:", obj.docstring.value)
