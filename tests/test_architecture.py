"""Tests which package may import which, what each wheel holds, and that versions agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"lame_runtime": "runtime", "lame_training": "training", "lame_export": "lame_export"}
ARROWS = {
    "lame_runtime": set(),
    "lame_training": {"lame_runtime"},
    "lame_export": {"lame_runtime", "lame_training"},
}
"""Packages that each package may import: data flows training → export → runtime, imports the
other way.
"""
HEAVY = {
    "torch",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "sklearn",
    "pyarrow",
    "safetensors",
}


def modules(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / PACKAGES[package] / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """Returns the dotted name of a module of this project."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Returns the top-level names that a module imports, inside functions as well."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package: str) -> None:
    """A package imports only the packages that `ARROWS` allows."""
    for path in modules(package):
        ours = imports(path) & set(PACKAGES) - {package}
        assert ours <= ARROWS[package], f"{path} imports {ours - ARROWS[package]}"


def test_the_runtime_names_no_heavy_module() -> None:
    """The runtime imports no heavy package, not even inside a function.

    `lame_runtime.bulk.arrow_modules` imports pyarrow, an extra, by name when it is first used.
    """
    for path in modules("lame_runtime"):
        assert not imports(path) & HEAVY, path


def test_the_engine_builder_needs_the_runtime_alone() -> None:
    """The engine builder runs on the device, so it imports nothing but the runtime."""
    package = ROOT / "lame_export/lame_export"
    for path in (
        *(package / "engine").glob("*.py"),
        package / "cli/engine_command.py",
        package / "__init__.py",
    ):
        assert not imports(path) & (HEAVY | {"lame_training", "onnxruntime"}), path


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    """Importing every module of the runtime in a fresh process loads no heavy package."""
    # Haystack imports PyTorch where it is installed; its adapter is tested without PyTorch
    others = {"lame_runtime.integrations.haystack"}
    names = [name for path in modules("lame_runtime") if (name := name_of(path)) not in others]
    code = f"import importlib, sys\n[importlib.import_module(name) for name in {names!r}]\n" + (
        f"print(sorted({HEAVY!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["lame_training", "lame_export"])
def test_importing_a_package_is_free_of_torch(package: str) -> None:
    """Importing the package does not import PyTorch."""
    code = f"import sys, {package}, {package}.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_module_says_why_it_exists_and_stays_short() -> None:
    """Every module has a docstring and at most 300 lines."""
    for package in PACKAGES:
        for path in modules(package):
            text = path.read_text(encoding="utf-8")
            assert ast.get_docstring(ast.parse(text)) or not text.strip(), path
            assert len(text.splitlines()) <= 300, path


def test_versions_are_equal() -> None:
    """The three distributions and their packages declare the same version."""
    versions = set()
    for package, folder in PACKAGES.items():
        versions.add(
            re.search(
                r'^version = "(.+)"', (ROOT / folder / "pyproject.toml").read_text(), re.MULTILINE
            )[1]
        )  # type: ignore[index]
        versions.add(
            re.search(
                r'^__version__ = "(.+)"',
                (ROOT / folder / package / "__init__.py").read_text(),
                re.MULTILINE,
            )[1]
        )  # type: ignore[index]
    assert len(versions) == 1
    (version,) = versions
    for folder in ("training", "lame_export"):
        assert f"lame-runtime=={version}" in (ROOT / folder / "pyproject.toml").read_text()
    assert version in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_each_wheel_holds_its_package_and_nothing_else(package: str, tmp_path: Path) -> None:
    """Each wheel holds every module and the type marker, and no other top-level name.

    Beside them it holds the text of the license, as the archive of the sources does.
    """
    license_text = (ROOT / "LICENSE").read_bytes()
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--sdist",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT / PACKAGES[package]),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        texts = [
            archive.read(name)
            for name in archive.namelist()
            if name.endswith(".dist-info/licenses/LICENSE")
        ]
    assert texts == [license_text]
    (sources,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sources) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith("/LICENSE"))
        member = archive.extractfile(name)
        assert member is not None
        assert member.read() == license_text
    source = ROOT / PACKAGES[package]
    expected = {
        path.relative_to(source).as_posix()
        for path in (*modules(package), source / package / "py.typed")
    }
    if package == "lame_runtime":
        # what a browser shows at `/`, without an index and with one
        expected |= {f"lame_runtime/serving/web/page/{name}.html" for name in ("index", "search")}
    if package == "lame_export":
        expected.add(
            "optimum/commands/register/register_lame.py"
        )  # Optimum discovers third-party commands in this folder
    assert names == expected
    assert wheel.stat().st_size < 500_000


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    """No tracked file contains an absolute path of the developer's machine."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in listed:
        if Path(name).suffix in {".py", ".md", ".toml", ".txt", ""}:
            assert f"{ROOT.parent}/" not in (ROOT / name).read_text(encoding="utf-8"), name
