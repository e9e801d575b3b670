"""The README: its commands and its Python run as they stand, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_blocks import ROOT, prepare_folder, read_blocks, run_in_a_process

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


@pytest.fixture
def folder(checkpoint: Path, exported: Path, data: Path, tmp_path: Path) -> Path:
    """A folder that looks as the README's reader has it."""
    prepare_folder(tmp_path, checkpoint, exported, data)
    return tmp_path


def test_the_blocks_of_the_readme_run(folder: Path) -> None:
    """One after the other, with the installed programs, in processes of their own."""
    blocks = read_blocks(README)
    assert {block.language for block in blocks} == {"sh", "python"}
    for block in blocks:
        run_in_a_process(block, folder)
    assert (folder / "vectors.npy").is_file()


def test_the_readme_can_be_read_at_once() -> None:
    """120 lines, and one screen until the picture."""
    lines = TEXT.splitlines()
    assert len(lines) <= 120
    assert next(number for number, line in enumerate(lines, 1) if "demo.png" in line) <= 40


def test_every_make_target_that_is_named_exists() -> None:
    """And the Makefile explains each, for `make help`."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    documents = [README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        target
        for document in documents
        for target in re.findall(
            r"(?:^|`)make ([a-z0-9-]+)", document.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {"demo", "test", "check", "docs", "help"} <= named
    for target in named:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "name",
    ["README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md", "runtime/README.md"],
)
def test_every_link_leads_somewhere(name: str) -> None:
    """Files that are linked to, from the folder of the document."""
    document = ROOT / name
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
