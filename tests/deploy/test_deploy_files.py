"""The files of examples/deploy are what Docker, Kubernetes, Prometheus and systemd read."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples/deploy"
TOOLS = Path(sys.prefix) / "deploy"
"""Linters, which `make` installs beside the project's own packages."""
pytestmark = pytest.mark.skipif(not TOOLS.is_dir(), reason=f"no linters in {TOOLS}: run make")
LIVE, READY = "/v1/health/live", "/v1/health/ready"


def lint(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a linter with the packages beside it."""
    program = TOOLS / "bin" / command[0]
    # scripts of `pip install --target` do not find their own packages
    prefix = [sys.executable] if program.read_bytes().startswith(b"#!") else []
    return subprocess.run(
        [*prefix, str(program), *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
    )


def changed(tmp_path: Path, name: str, old: str, new: str) -> str:
    """Returns the path of a copy in which a text is replaced."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert old in text
    copy = tmp_path / Path(name).name
    copy.write_text(text.replace(old, new, 1), encoding="utf-8")
    return str(copy)


CASES = {
    "container": ("hadolint", "Containerfile", "useradd --system", "sudo useradd --system"),
    "compose": ("check-jsonschema", "compose.yaml", "stop_grace_period", "stop_grace_time"),
    "kubernetes": ("kubernetes-validate", "kubernetes.yaml", "containerPort", "containersPort"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_linter_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    """And it sees a wrong command, or a misspelled key."""
    program, file, old, new = CASES[name]
    options = ["--builtin-schema", "vendor.compose-spec"] if name == "compose" else []
    outcome = lint(program, *options, str(FOLDER / file))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    broken = lint(program, *options, changed(tmp_path, file, old, new))
    assert broken.returncode != 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_the_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    """Its own check names an unknown key; that the program is missing here is no fault."""
    unit = changed(tmp_path, "lame.service", "/opt/lame/bin/lame-runtime", sys.executable)
    assert analyzed(unit) == ""
    assert "RestartSecs" in analyzed(changed(tmp_path, "lame.service", "RestartSec", "RestartSecs"))


def analyzed(unit: str) -> str:
    """Returns what systemd says about a unit."""
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    # other units of this machine are no concern of ours
    return "\n".join(line for line in outcome.stderr.splitlines() if "lame.service" in line)


def test_the_dashboard_and_the_figures_agree() -> None:
    """Every expression is one of Prometheus', and names figures that the server has."""
    from lame_runtime.serving.figures import Figures

    page = Figures().page().decode()
    known = set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))
    parser = prometheus_parser()
    panels = json.loads((FOLDER / "grafana/dashboard.json").read_text(encoding="utf-8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > 10
    for expression in expressions:
        parser.parse(expression.replace("$__rate_interval", "1m"))
        for figure in re.findall(r"\blame_\w+", expression):
            assert known & {figure, re.sub(r"_(bucket|sum|count)$", "", figure)}, figure
    with pytest.raises(ValueError, match=r"."):
        parser.parse("rate(lame_items_total[1m)")


def prometheus_parser() -> Any:
    """Imports the parser of expressions, which is no package of the project."""
    path = TOOLS / "promql_parser/__init__.py"
    spec = importlib.util.spec_from_file_location(
        "promql_parser", path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["promql_parser"] = module
    spec.loader.exec_module(module)
    return module


def test_probes_and_paths_are_those_of_the_server() -> None:
    """A probe of a route that does not exist would restart the server for ever."""
    kubernetes = (FOLDER / "kubernetes.yaml").read_text(encoding="utf-8")
    container = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    routes = (FOLDER.parents[1] / "runtime/lame_runtime/serving/web").rglob("*.py")
    source = "".join(path.read_text(encoding="utf-8") for path in routes)
    for path in (LIVE, READY):
        assert path in kubernetes
        assert f'"{path}"' in source
    assert READY in container
    compose = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    for name in re.findall(r"\./([\w./]+):", compose):
        assert (FOLDER / name).is_file(), name
