"""Runs graphs for CPUs on the oldest supported ONNX Runtime, in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(sys.prefix) / "floor"
VERSION = "1.23.2"
_CODE = """
import json, sys
import onnxruntime
from lame_runtime import Encoder
bundle, graph, texts = sys.argv[1:]
with Encoder.load(bundle, graph=graph) as encoder:
    print(json.dumps([onnxruntime.__version__, encoder.encode(json.loads(texts)).tolist()]))
"""


def embed(bundle: Path, graph: str, inputs: list[object]) -> np.ndarray:
    """Returns the vectors that version computes for JSON inputs: float32 (n, P).

    Skips the test if that version is not installed.
    """
    if not FOLDER.is_dir():
        pytest.skip(f"onnxruntime {VERSION} is not in {FOLDER}; make test puts it there")
    # the caller's own path follows, because a checkout may be tested from another one's install
    path = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-c", _CODE, str(bundle), graph, json.dumps(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    version, vectors = json.loads(done.stdout.splitlines()[-1])
    assert version == VERSION
    return np.array(vectors, dtype=np.float32)
