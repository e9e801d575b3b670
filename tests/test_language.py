"""Tests the language of the code: docstrings, variable names, line length, comments, spelling."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("runtime/lame_runtime", "training/lame_training", "lame_export/lame_export")
FRAGMENTS = ("Of", "What", "Where")
"""Words that no docstring may begin with, because they begin fragments."""
PRIVATE_NOUNS = {"each", "found", "said", "told", "asked"}
"""Words that must not be used as variable names."""
LONGEST_LINE = 100
PRAGMA = re.compile(r"  # (?:noqa|type: ignore).*$")
COMMENT_SHARE = 0.04
"""Minimum share of comment lines in a package."""
BRITISH = re.compile(
    r"\b\w*(?:quantis|optimis|initialis|normalis|serialis|summaris|recognis|behaviour|neighbour"
    r"|(?<!mixing_)colour|artefact|judgement)\w*",
    re.IGNORECASE,
)


def sources() -> Iterator[Path]:
    """Yields the Python files of the repository that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    yield from (ROOT / name for name in names.split() if (ROOT / name).exists())


def documentation(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields the line and text of every docstring, including those of attributes and constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            yield from [(node.lineno, text)] if isinstance(text, str) else []


def fragments(text: str) -> list[str]:
    """Returns the docstrings that begin with one of `FRAGMENTS`."""
    return [
        f"{line}: {doc.strip().splitlines()[0]}"
        for line, doc in documentation(ast.parse(text))
        if doc.split()[:1] and doc.split()[0] in FRAGMENTS
    ]


def private_nouns(text: str) -> list[str]:
    """Returns the variables whose name is one of `PRIVATE_NOUNS`."""
    return [
        f"{node.lineno}: {node.id}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Store)
        and node.id in PRIVATE_NOUNS
    ]


def comment_lines(text: str) -> int:
    """Returns the number of comment lines, without directives for tools."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(
        token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:"))
        for token in tokens
    )


def test_docstrings_are_sentences() -> None:
    """No docstring begins with Of, What or Where."""
    assert not [f"{path}:{entry}" for path in sources() for entry in fragments(path.read_text())]


def test_variables_are_nouns() -> None:
    """No variable is called each, found, said, told or asked."""
    assert not [
        f"{path}:{entry}" for path in sources() for entry in private_nouns(path.read_text())
    ]


def test_lines_end_at_column_100() -> None:
    """No line of code, docstrings or comments is longer than 100 characters."""
    assert not [
        f"{path}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        # what tools are told stands behind the line that it concerns
        if len(PRAGMA.sub("", line)) > LONGEST_LINE
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_comments_say_why(package: str) -> None:
    """At least one line in twenty is a comment."""
    texts = [path.read_text() for path in (ROOT / package).rglob("*.py")]
    lines = sum(len(text.splitlines()) for text in texts)
    comments = sum(map(comment_lines, texts))
    assert comments >= COMMENT_SHARE * lines, f"{comments} comment lines of {lines}"


def test_the_spelling_is_american() -> None:
    """Code and documents use American spelling."""
    command = ["git", "ls-files", "*.py", "*.md", "*.toml"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in names.split() if name != "tests/test_language.py"]
    assert not [
        f"{path}: {word}"
        for path in files
        if path.exists()
        for word in BRITISH.findall(path.read_text())
    ]


def test_the_rules_see_what_breaks_them() -> None:
    """Each rule reports a text that breaks it."""
    text = (
        '"""Of the batch."""\n\nLIMIT = 3\n"""What a run takes."""\n'
        "for each in []:  # why\n    x = each\n"
    )
    assert len(fragments(text)) == 2
    assert private_nouns(text) == ["5: each"]
    assert comment_lines(text) == 1
    assert comment_lines("x = 1  # noqa: E501") == 0
    assert BRITISH.findall("we quantised it") == ["quantised"]
    assert not BRITISH.findall("we quantized it")
