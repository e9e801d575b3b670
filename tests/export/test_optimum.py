"""`optimum-cli export lame` works when it is run by the real Optimum."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# The one that is installed beside this Python, whatever the PATH says.
OPTIMUM = str(Path(sys.executable).with_name("optimum-cli"))


def test_optimum_exports_a_bundle(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """The command writes the bundle that `lame-export bundle` writes."""
    # Few inputs, as this checks the command and not the model.
    options = ["--data", str(data), "--graphs", "fp32", "--golden", "2", "--calibration", "2"]
    command = [
        OPTIMUM,
        "export",
        "lame",
        "--model",
        str(checkpoint),
        str(tmp_path / "bundle"),
        *options,
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "gates met" in process.stdout
    assert json.loads((tmp_path / "bundle/manifest.json").read_text())["kind"] == "lame-bundle"


def test_optimum_shows_a_mistake_in_one_line(data: Path, tmp_path: Path) -> None:
    """The exit code is that of `lame-export`, and no bundle is left."""
    command = [
        OPTIMUM,
        "export",
        "lame",
        "-m",
        str(tmp_path / "nowhere"),
        str(tmp_path / "bundle"),
        "--data",
        str(data),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    # The exporter names each pass before it runs.
    errors = [line for line in process.stderr.splitlines() if not line.startswith("pass ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "nowhere" in errors[0]
    assert list(tmp_path.iterdir()) == []
