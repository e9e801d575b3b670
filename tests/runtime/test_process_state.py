"""The runtime leaves the state of the process that uses it unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "examples/tiny-bundle"
PRODUCT = "import numpy as np; tiny = np.full(1, 1e-20, np.float32); print((tiny * tiny)[0] > 0)"
ENCODE = f"""
from lame_runtime import Encoder
with Encoder.load({str(TINY)!r}) as encoder:
    encoder.encode("seven")
{PRODUCT}
"""
FLUSH = f"""
import lame_runtime
import onnxruntime as ort
options = ort.SessionOptions()
options.add_session_config_entry("session.set_denormal_as_zero", "1")
ort.InferenceSession({str(TINY / "graphs/vision.fp32.onnx")!r}, options)
{PRODUCT}
"""


@pytest.mark.parametrize(("program", "kept"), [(ENCODE, "True"), (FLUSH, "False")])
def test_denormal_numbers_stay_what_they_are(program: str, kept: str) -> None:
    """NumPy computes with denormal numbers as before.

    The control sets ONNX Runtime's option that flushes them, which changes the arithmetic of the
    thread that loads a graph, and so of everything else that it computes.
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == kept
