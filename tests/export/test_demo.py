"""Tests the demo on the tiny recipe: its files, its table and its self-contained page."""

from __future__ import annotations

import io
import re
from pathlib import Path

from lame_export.demo.run_demo import run_demo
from rich.console import Console


def test_the_demo_leaves_data_checkpoint_bundle_and_page(tmp_path: Path) -> None:
    """The demo writes all its parts, and a second run keeps those that are complete."""
    out = io.StringIO()
    console = Console(file=out, width=120)
    run_demo(tmp_path, "digits-tiny", console)
    assert {path.name for path in tmp_path.iterdir()} == {
        "data",
        "checkpoint",
        "bundle",
        "index.html",
        "demo.json",
    }
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count("✓ right") >= 1
    assert "<svg" in page
    assert "graph vs PyTorch" in page
    assert str(tmp_path) not in page
    for word in ("sum2", "int8-cpu", "mean cosine", "ms per input", "size, MB"):
        assert word in out.getvalue()
    manifest = (tmp_path / "bundle/manifest.json").read_bytes()
    run_demo(tmp_path, "digits-tiny", console)
    assert (tmp_path / "bundle/manifest.json").read_bytes() == manifest
