"""Tests the layout of each distribution.

Folders are small, file names are unique, imports have no cycles, and no distribution uses the
private names of another.

The last test runs every rule on a package that breaks it.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "lame_runtime": ROOT / "runtime/lame_runtime",
    "lame_training": ROOT / "training/lame_training",
    "lame_export": ROOT / "lame_export/lame_export",
}
LARGEST_FOLDER = 10
"""Maximum number of modules in a folder, including `__init__` and `__main__`."""
SHARED_NAMES = {"__init__.py", "__main__.py"}


def crowded_folders(package: Path) -> list[str]:
    """Returns the folders that hold more than `LARGEST_FOLDER` modules."""
    sizes = Counter(path.parent for path in package.rglob("*.py"))
    return [f"{folder}: {size} modules" for folder, size in sizes.items() if size > LARGEST_FOLDER]


def repeated_names(package: Path) -> list[str]:
    """Returns the file names that occur more than once in a distribution."""
    names = Counter(path.name for path in package.rglob("*.py") if path.name not in SHARED_NAMES)
    return sorted(name for name, count in names.items() if count > 1)


def module_name(path: Path, package: Path) -> str:
    """Returns the dotted name of a file of the package."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, modules: set[str]) -> Iterator[str]:
    """Yields the modules that a file imports, also inside functions and under `TYPE_CHECKING`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from package import module` imports the module, `from module import name` the module
            # that holds the name
            names = [
                full if (full := f"{node.module}.{alias.name}") in modules else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name in modules)


def import_circles(package: Path) -> list[set[str]]:
    """Returns the groups of modules that import each other (Tarjan's strongly
    connected components).
    """
    files = {module_name(path, package): path for path in package.rglob("*.py")}
    edges = {name: sorted(set(imported(path, set(files))) - {name}) for name, path in files.items()}
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    circles: list[set[str]] = []

    def visit(name: str) -> None:
        numbers[name] = lowest[name] = len(numbers)
        stack.append(name)
        for target in edges[name]:
            if target not in numbers:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], numbers[target])
        if lowest[name] == numbers[name]:
            component: set[str] = set()
            while name not in component:
                component.add(stack.pop())
            if len(component) > 1:
                circles.append(component)

    for name in edges:
        if name not in numbers:
            visit(name)
    return circles


def borrowed_private_names(package: Path) -> list[str]:
    """Returns the imports of private modules or names of another distribution."""
    borrowed = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                top, *rest = name.split(".")
                if (
                    top in PACKAGES
                    and top != package.name
                    and any(part.startswith("_") and not part.startswith("__") for part in rest)
                ):
                    borrowed.append(f"{path.name}:{node.lineno}: {name}")
    return borrowed


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_holds_more_than_ten_modules(package: str) -> None:
    """No folder holds more than ten modules."""
    assert not crowded_folders(PACKAGES[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_of_a_distribution_share_a_file_name(package: str) -> None:
    """File names are unique, so that "go to file" in an editor finds a single file."""
    assert not repeated_names(PACKAGES[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_do_not_import_each_other_in_circles(package: str) -> None:
    """No modules import each other, also counting imports that are deferred or for types only."""
    assert not import_circles(PACKAGES[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_distribution_imports_the_private_names_of_another(package: str) -> None:
    """Distributions use only the public names of each other."""
    assert not borrowed_private_names(PACKAGES[package])


def test_the_rules_see_what_breaks_them(tmp_path: Path) -> None:
    """Each rule reports a package that breaks it."""
    package = tmp_path / "lame_export"
    sources: dict[str, str] = defaultdict(str)
    sources |= {f"crowd/module{number}.py": "" for number in range(LARGEST_FOLDER + 1)}
    sources |= {"one/same.py": "", "two/same.py": ""}
    sources |= {
        "ring/first.py": "def late():\n    from lame_export.ring import second",
        "ring/second.py": "if TYPE_CHECKING:\n    import lame_export.ring.third",
        "ring/third.py": "from lame_export.ring.first import late",
        "thief.py": "from lame_runtime.errors import _secret",
    }
    for name, text in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    assert [entry.rsplit("/", 1)[-1] for entry in crowded_folders(package)] == ["crowd: 11 modules"]
    assert repeated_names(package) == ["same.py"]
    ring = {f"lame_export.ring.{name}" for name in ("first", "second", "third")}
    assert import_circles(package) == [ring]
    assert borrowed_private_names(package) == ["thief.py:1: lame_runtime.errors._secret"]
