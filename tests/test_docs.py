"""The documentation: the site builds without warnings, and what its pages say is true."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from markdown_blocks import (
    PROGRAMS,
    ROOT,
    SHOWN,
    arguments_of,
    prepare_folder,
    read_blocks,
    run_here,
)

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [
    *PAGES,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *(
        ROOT / f"{folder}/README.md"
        for folder in ("examples", "runtime", "training", "lame_export")
    ),
]
PACKAGES = ("runtime/lame_runtime", "training/lame_training", "lame_export/lame_export")


def names(paths: list[Path]) -> list[str]:
    """Names for parametrized tests."""
    return [path.relative_to(ROOT).as_posix() for path in paths]


@pytest.fixture(scope="module")
def cli_reference() -> ModuleType:
    """The hook that renders the command lines; docs/ is no package."""
    spec = importlib.util.spec_from_file_location("cli_reference", DOCS / "cli_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def commands(cli_reference: ModuleType) -> dict[str, dict[str, argparse.ArgumentParser]]:
    """The parsers of all commands, by program and command."""
    return {
        program: cli_reference.subcommands(cli_reference.program_parser(program))
        for program in PROGRAMS
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("documentation") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    outcome = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr[-5000:]
    return folder


def test_the_site_has_every_page(site: Path) -> None:
    """And nothing of docs/ that is not meant to be read."""
    for page in PAGES:
        target = site / page.relative_to(DOCS).with_suffix(".html")
        assert target.is_file(), page
    assert not list(site.rglob("*.py"))


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    """No fonts, scripts, styles or pictures of other hosts, so it can be read without a network."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text):
            assert not re.search(r'(?:src|href)="?(?:https?:)?//', tag), f"{page}: {tag}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()), style


def test_the_site_shows_the_public_names_of_every_package(site: Path) -> None:
    """Each name of `__all__` has an anchor on the page of its package, or on that of the errors."""
    for package in ("lame_runtime", "lame_training", "lame_export"):
        pages = [site / f"reference/{package}.html", site / "reference/errors.html"]
        text = "".join(page.read_text(encoding="utf-8") for page in pages)
        for name in importlib.import_module(package).__all__:
            assert re.search(rf'id="[\w.]*\b{name}"', text), f"{package}.{name}"


def test_the_site_shows_files_of_the_repository_as_pages(site: Path) -> None:
    """Measurements, experiments, changes and rules exist once, as files of the repository."""
    for page, words in (
        ("reference/benchmarks.html", "NVIDIA H200"),
        ("reference/training-log.html", "What did not work"),
        ("development/changelog.html", "0.1.0"),
        ("development/index.html", "One home for one idea"),
    ):
        assert words in (site / page).read_text(encoding="utf-8"), page


def test_the_command_reference_is_rendered_from_the_parsers(
    cli_reference: ModuleType, commands: dict[str, dict[str, argparse.ArgumentParser]]
) -> None:
    """Every command with every option that its help shows; older spellings are left out."""
    text = cli_reference.reference()
    for program, parsers in commands.items():
        assert parsers, program
        for name, parser in parsers.items():
            assert f"### {program} {name}\n" in text
            section = text.split(f"### {program} {name}\n")[1].split("\n## ")[0].split("\n### ")[0]
            for line in parser.format_help().splitlines():
                if option := re.match(r"\s+(?:-\w,? (?:\w+, )?)?(--[a-z][\w-]*)", line):
                    assert option[1] == "--help" or f"`{option[1]}" in section, option[1]
    assert "`--out " not in text
    assert "`--out`" not in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_commands_that_are_only_shown_could_run(
    document: Path, commands: dict[str, dict[str, argparse.ArgumentParser]]
) -> None:
    """Their commands and flags exist and fit together, which the parsers decide."""
    for block in read_blocks(document, ("sh", *SHOWN)):
        if block.language == "py":
            ast.parse(block.text)
            continue
        for line in block.lines:
            program, *arguments = arguments_of(line.partition("torchrun ")[0] or line)
            if program in PROGRAMS:
                assert arguments[0] in commands[program], line
                parser = commands[program][arguments[0]]
                parser.parse_args(arguments[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_flag_that_is_named_exists(
    document: Path, commands: dict[str, dict[str, argparse.ArgumentParser]]
) -> None:
    """In one of the programs, or in the programs of others that are used beside them."""
    foreign = {"--system-site-packages", "--user", "--gpus", "--lame-bundle", "--lame-graph"}
    foreign |= {"--lame-backend", "--help", "--out"}
    known = {
        option
        for parsers in commands.values()
        for parser in parsers.values()
        for action in parser._actions  # noqa: SLF001 - argparse has no public list of its arguments
        for option in action.option_strings
    }
    for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", document.read_text(encoding="utf-8")):
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            assert flag in known | foreign, f"{flag} in `{code}`"


RUNNABLE = [page for page in PAGES if read_blocks(page)]


@pytest.mark.parametrize("page", RUNNABLE, ids=names(RUNNABLE))
def test_the_blocks_of_a_page_run(
    page: Path,
    checkpoint: Path,
    exported: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One after the other, on the shared tiny artifacts in the place of the demo's."""
    prepare_folder(tmp_path, checkpoint, exported, data)
    monkeypatch.chdir(tmp_path)
    for block in read_blocks(page):
        run_here(block, tmp_path)


def test_the_messages_of_the_troubleshooting_page_are_real() -> None:
    """Every message that a heading quotes is one of the code's; `…` stands for a value."""
    text = (DOCS / "reference/troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#### (.+)$", text, re.MULTILINE)
    quoted = [message for heading in headings for message in re.findall(r"`([^`]+)`", heading)]
    assert len(quoted) > 20
    known = "\n".join(library_strings())
    for message in quoted:
        pattern = ".*?".join(re.escape(part) for part in message.split("…"))
        assert re.search(pattern, known), message


def library_strings() -> list[str]:
    """All strings of the packages, with `…` for what an f-string puts in."""
    strings = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (
                        str(value.value) if isinstance(value, ast.Constant) else "…"
                        for value in node.values
                    )
                    strings.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    strings.append(node.value)
    return strings


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_lines_end_at_column_100(document: Path) -> None:
    """Tables, links and blocks, which cannot be wrapped, are left out."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in text.splitlines():
        if len(line) > 100:
            assert line.startswith(("|", "!", "    ")) or "](" in line, line


def test_every_distribution_has_the_license() -> None:
    """A copy of the repository's in each folder, since a build sees that folder alone."""
    license_text = (ROOT / "LICENSE").read_bytes()
    for folder in ("runtime", "training", "lame_export"):
        assert (ROOT / folder / "LICENSE").read_bytes() == license_text
        assert 'license-files = ["LICENSE"]' in (ROOT / folder / "pyproject.toml").read_text()


def test_the_distributions_build_and_pass_twine(tmp_path: Path) -> None:
    """A source distribution of each, and from that the wheel; the license is in both."""
    for folder in ("runtime", "training", "lame_export"):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
        subprocess.run([*command, str(ROOT / folder)], check=True, capture_output=True)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    for file in files:
        assert any(name.endswith("/LICENSE") for name in archive_names(file)), file
    twine = [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)]
    outcome = subprocess.run(twine, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def archive_names(file: Path) -> list[str]:
    """Names in a wheel or a source distribution."""
    import tarfile
    import zipfile

    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            return wheel.namelist()
    with tarfile.open(file) as sdist:
        return sdist.getnames()


def test_the_citation_names_the_version_and_the_paper() -> None:
    """CITATION.cff is read by programs."""
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    version = importlib.import_module("lame_runtime").__version__
    assert citation["version"] == version
    assert citation["license"] == "Apache-2.0"
    assert "2606.13061" in citation["references"][0]["url"]
