"""Renders a chat template in Jinja's sandbox, as transformers does.

`run_limited` runs it, because a template may loop forever or fill the memory. It imports Jinja and
the standard library alone.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox

MAX_TEXT = 1 << 20
"""Longest rendered text in characters."""


class Generation(jinja2.ext.Extension):
    """The block `{% generation %}`, which marks an answer in training and prints its content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own form

    def parse(self, parser: Any) -> Any:
        """Returns the statements inside of the block."""
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


class Namespace(jinja2.utils.Namespace):
    """Jinja's namespace, without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"{name!r} cannot be set on a namespace")
        super().__setitem__(name, value)


def environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """Returns the environment that transformers renders chat templates in."""
    result = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    result.filters["tojson"] = _to_json
    result.globals.update(
        raise_exception=_raise_exception,
        strftime_now=lambda form: datetime.now().strftime(form),
        namespace=Namespace,
    )
    return result


def answer(question: dict[str, Any]) -> list[str]:
    """Returns the text of each conversation of the question, a list of chat messages."""
    template = environment().from_string(question["template"])
    texts = []
    for messages in question["conversations"]:
        names = {"tools": None, "documents": None, **question["variables"]}
        text = template.render(messages=messages, **names)
        if len(text) > MAX_TEXT:
            raise ValueError(f"it prints {len(text):,} characters")
        texts.append(text)
    return texts


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes signs of HTML
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)
