"""`optimum-cli export lame`, run by the real Optimum."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

OPTIMUM = str(Path(sys.executable).with_name("optimum-cli"))


def test_optimum_exports_a_bundle(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """As `lame-export bundle` does."""
    options = ["--data", str(data), "--graphs", "fp32", "--golden", "2", "--calibration", "2"]
    command = [OPTIMUM, "export", "lame", "--model", str(checkpoint), str(tmp_path / "bundle"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "gates met" in done.stdout
    assert json.loads((tmp_path / "bundle/manifest.json").read_text())["kind"] == "lame-bundle"


def test_optimum_shows_a_mistake_in_one_line(data: Path, tmp_path: Path) -> None:
    """With our exit code, and no bundle."""
    command = [OPTIMUM, "export", "lame", "-m", str(tmp_path / "nowhere"), str(tmp_path / "bundle"), "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith("pass ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "nowhere" in errors[0]
    assert list(tmp_path.iterdir()) == []
