"""Renders the command line reference from the parsers of the three programs.

MkDocs loads this file as a hook (mkdocs.yml) and calls `on_page_markdown` for every page. On the
page `reference/cli.md` the marker below is replaced by the reference, so that flags and defaults
are never written down twice. `python docs/cli_reference.py` prints the same Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from typing import Any

PAGE = "reference/cli.md"
MARKER = "<!-- command line reference -->"
PROGRAMS = {
    "lame-runtime": "lame_runtime.cli.main",
    "lame-train": "lame_training.__main__",
    "lame-export": "lame_export.cli.main",
}
"""The module of each program that makes its parser."""


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Returns the page's Markdown, with the marker replaced if this is the reference's page."""
    if page.file.src_uri != PAGE:
        return markdown
    if MARKER not in markdown:
        raise ValueError(f"{PAGE} lacks the line {MARKER}")
    return markdown.replace(MARKER, reference())


def reference() -> str:
    """Returns the reference of all programs as Markdown."""
    return "\n".join(line for program in PROGRAMS for line in _program(program))


def program_parser(program: str) -> argparse.ArgumentParser:
    """Returns the parser of a program."""
    parser: argparse.ArgumentParser = importlib.import_module(PROGRAMS[program]).make_parser()
    return parser


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Returns the commands of a program that its help shows, by name."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of its arguments
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            shown = {choice.dest for choice in action._choices_actions}  # noqa: SLF001
            return {name: command for name, command in action.choices.items() if name in shown}
    return {}


def _program(program: str) -> Iterator[str]:
    parser = program_parser(program)
    yield from (f"## {program}", "", _sentence(parser.description), "")
    for name, command in subcommands(parser).items():
        yield from (f"### {program} {name}", "", _sentence(command.description), "")
        yield from ("```text", _usage(command), "```", "")
        for group in command._action_groups:  # noqa: SLF001
            yield from _group(command, group)
        if command.epilog:
            yield from _example(command.epilog)


def _usage(command: argparse.ArgumentParser) -> str:
    """Returns the command with what must be given; argparse's own line names every option."""
    actions = command._actions  # noqa: SLF001
    values = [_value(action) for action in actions if not action.option_strings]
    required = [
        f"{action.option_strings[-1]} {_value(action)}"
        for action in actions
        if action.option_strings and action.required
    ]
    return " ".join([command.prog, *values, *required, "[options]"])


def _group(command: argparse.ArgumentParser, group: Any) -> Iterator[str]:
    """Yields the table of one group of arguments; nothing if the group has none to show."""
    actions = [
        action
        for action in group._group_actions  # noqa: SLF001
        if action.help is not argparse.SUPPRESS and "--help" not in action.option_strings
    ]
    if not actions:
        return
    title = {"positional arguments": "Arguments", "options": "Options"}.get(group.title)
    yield from (f"| {title or group.title.capitalize()} | |", "| --- | --- |")
    formatter = command._get_formatter()  # noqa: SLF001
    for action in actions:
        text = formatter._expand_help(action) if action.help else ""  # noqa: SLF001
        if action.choices is not None and action.metavar is None:
            text += f"; one of {', '.join(str(choice) for choice in action.choices)}"
        yield f"| {_invocation(action)} | {_escape(text)} |"
    yield ""


def _invocation(action: argparse.Action) -> str:
    """Returns how an argument is written, such as `-o`, `--output OUTPUT`."""
    value = _value(action)
    if not action.option_strings:
        return f"`{value}`"
    *short, last = action.option_strings
    written = f"{last} {value}".strip()
    return ", ".join(f"`{option}`" for option in (*short, written))


def _value(action: argparse.Action) -> str:
    """Returns the placeholder of an argument's value, or nothing for a switch."""
    if action.nargs == 0:
        return ""
    name = str(action.metavar or action.dest.upper())
    return {"+": f"{name} …", "*": f"[{name} …]"}.get(str(action.nargs), name)


def _example(epilog: str) -> Iterator[str]:
    title, *lines = epilog.strip().splitlines()
    yield from (f"{title.strip().capitalize()}", "", "```sh")
    yield from (line.strip() for line in lines if line.strip())
    yield from ("```", "")


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _escape(text: str) -> str:
    """Protects the characters that a Markdown table or HTML would take for its own."""
    return re.sub(r"([|<\[\]*_])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    print(reference())
