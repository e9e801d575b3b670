"""Tests that ONNX Runtime's telemetry is off, or that it is said why it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from changed_bundle import EXAMPLE

EMBED = (
    f"with Encoder.load({str(EXAMPLE)!r}, backend='onnxruntime') as encoder: encoder.encode('a')\n"
)
WARNING = "set ORT_DISABLE_TELEMETRY=1"


def run(code: str, home: Path, **variables: str) -> str:
    """Runs a program in a home of its own and returns what it wrote to stderr."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, "HOME": str(home), **variables},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stderr


def writes_by_itself(home: Path) -> bool:
    """Returns whether this build of ONNX Runtime writes files when it is imported."""
    run("import onnxruntime", home)
    return bool(list(home.iterdir()))


@pytest.mark.parametrize(
    "imports",
    [
        "from lame_runtime import Encoder",
        "from lame_runtime import Encoder; import onnxruntime",
        "import lame_runtime; import onnxruntime; from lame_runtime import Encoder",
    ],
)
def test_nothing_is_written_if_lame_is_imported_first(imports: str, tmp_path: Path) -> None:
    """Importing the package is enough, before any bundle is loaded."""
    assert WARNING not in run(f"{imports}\n{EMBED}", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_import_of_onnx_runtime_is_reported_once(tmp_path: Path) -> None:
    """Nothing can undo it, so a warning names the variable to set; with it nothing is written."""
    code = f"import onnxruntime; from lame_runtime import Encoder\n{EMBED}{EMBED}"
    quiet, loud, alone = (tmp_path / name for name in ("quiet", "loud", "alone"))
    for home in (quiet, loud, alone):
        home.mkdir()
    assert WARNING not in run(code, quiet, ORT_DISABLE_TELEMETRY="1")
    assert list(quiet.iterdir()) == []
    # control: a build without telemetry writes nothing, and there is nothing to report
    expected = 1 if writes_by_itself(alone) else 0
    assert run(code, loud).count(WARNING) == expected


def test_a_value_of_the_user_is_kept(tmp_path: Path) -> None:
    """Whoever wants the telemetry gets it, without a warning."""
    code = f"import onnxruntime; from lame_runtime import Encoder\n{EMBED}"
    assert WARNING not in run(code, tmp_path, ORT_DISABLE_TELEMETRY="0")
