"""Copies of the example bundle with changed files and a manifest that fits them.

Anyone can compute hashes anew, so a hash says nothing about what a bundle of unknown origin holds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EXAMPLE = Path(__file__).parent.parent / "examples/tiny-bundle"
ENCODER = "graphs/encoder.fp32.onnx"


def changed_bundle(target: Path, files: Mapping[str, bytes] | None = None) -> Path:
    """Copies the example bundle, writes `files` into it, and computes the manifest anew."""
    shutil.copytree(EXAMPLE, target)
    for name, content in (files or {}).items():
        (target / name).write_bytes(content)
    return rehash(target)


def rehash(bundle: Path, *, without: str = "") -> Path:
    """Writes the manifest's hashes anew; `without` names a file that it no longer lists."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {
        name: hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        for name in manifest["files"]
        if name != without
    }
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps({**manifest, "sha256": digest}))
    return bundle


def example_encoder() -> onnx.ModelProto:
    """Returns the encoder graph of the example, without its weights."""
    return onnx.load(EXAMPLE / ENCODER, load_external_data=False)


def constant_encoder(
    values: np.ndarray, kind: int = TensorProto.FLOAT, shape: tuple[int | str, ...] = ("batch", 64)
) -> bytes:
    """Returns an encoder that gives `values` whatever its inputs are, declared as `shape`."""
    model = example_encoder()
    inputs = list(model.graph.input)
    node = helper.make_node("Identity", ["values"], ["sentence_embedding"])
    output = helper.make_tensor_value_info("sentence_embedding", kind, list(shape))
    tensors = [numpy_helper.from_array(values, "values")]
    graph = helper.make_graph([node], "constant", inputs, [output], tensors)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
