"""The examples: scripts and notebook run, and the tiny bundle is small, whole and sensible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import notebook
import numpy as np
import pytest
from lame_runtime import Encoder
from lame_runtime.parity.verify import report, verify

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
TINY = EXAMPLES / "tiny-bundle"
SCRIPTS = {
    "answer_questions.py": [],
    "build_plan.py": ["examples/tiny-bundle", "runs/plans", "sm86"],
    "embed.py": [],
    "embed_documents.py": [],
    "export_bundle.py": ["runs/exported"],
    "make_tiny_bundle.py": ["runs/tiny", "--steps", "2", "--data", "digits"],
    "search_folder.py": ["examples/pictures", "digits that add up to nine"],
    "train_on_own_rows.py": ["runs/own"],
    "verify_parity.py": ["examples/tiny-bundle"],
}
"""Arguments of every script."""
PRINTED = {
    "answer_questions.py": "3.png is a three",
    "build_plan.py": "tensorrt_rtx",
    "embed.py": "(4, 64) float32",
    "embed_documents.py": "2 pages: (2, 64)",
    "export_bundle.py": "cosine of one text, bundle and checkpoint: 1.000000",
    "search_folder.py": "examples/pictures/72.png",
    "train_on_own_rows.py": "hit@1 on the training rows",
    "verify_parity.py": "wrote parity.xml",
}
"""Part of what a script prints."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that holds the examples as a checkout does."""
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_script_is_tested_and_listed() -> None:
    """And has at most 40 lines."""
    scripts = {path.name: path for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == set(SCRIPTS)
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name, path in scripts.items():
        assert name in listed
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 40, name


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs(name: str, folder: Path, data: Path) -> None:
    """From the repository's root; what it writes goes to the working directory."""
    (folder / "digits").symlink_to(data)
    if name == "build_plan.py":
        pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    before = sorted(EXAMPLES.rglob("*"))
    outcome = subprocess.run(
        [sys.executable, f"examples/{name}", *SCRIPTS[name]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert PRINTED.get(name, "") in outcome.stdout
    assert sorted(EXAMPLES.rglob("*")) == before


def test_the_notebook_shows_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells run in order, and print and return what is stored in it."""
    monkeypatch.chdir(EXAMPLES)
    stored = notebook.read(EXAMPLES / "quickstart.ipynb")
    cells = notebook.code_cells(stored)
    for cell, outputs in zip(cells, notebook.run(stored), strict=True):
        assert notebook.texts(outputs) == notebook.texts(cell["outputs"]), "".join(cell["source"])
    assert any(
        "image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"]
    )


def test_the_tiny_bundle_is_small() -> None:
    """Less than 1 MB in all, since it is part of every checkout."""
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) < 1_000_000


def test_the_tiny_bundle_is_whole_and_holds_on_this_machine() -> None:
    """Every hash, the contract and the graph; nothing was changed by hand."""
    assert report(verify(TINY))["passed"]


@pytest.mark.parametrize(
    ("total", "right"), [("seven", {"16", "34", "52"}), ("nine", {"18", "45", "72"})]
)
def test_the_tiny_bundle_finds_pictures_by_their_sum(total: str, right: set[str]) -> None:
    """Two of the three best pictures of two digits add up to what the query says."""
    paths = sorted(path for path in (EXAMPLES / "pictures").glob("??.png"))
    with Encoder.load(TINY) as encoder:
        text = f"digits that add up to {total}"
        query = encoder.encode_query(text, instruction="Find the picture.")
        scores = encoder.similarity(query, encoder.encode_document(paths))[0]
    best = {paths[index].stem for index in np.argsort(-scores)[:3]}
    assert len(best & (right | {"61"})) >= 2
