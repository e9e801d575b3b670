"""The model's switches reach the graphs.

The switches are an [EMBED] token that attends to the reason tokens alone, and a head that reads the
concatenated latent states.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from lame_export.parity.traced_backend import TracedBackend
from lame_export.plan import export
from lame_runtime import Encoder
from lame_training.model.torch_backend import load_encoder, load_encoder_and_model
from lame_training.recipes.catalog import find_recipe
from lame_training.run.initialization import initialize

TINY = find_recipe("digits-tiny")
INPUTS = [
    "seven",
    "digits that add up to fifteen",
    "a much longer text that is padded against the others in its batch",
]


def checkpoint_with(backbone: Path, out: Path, **switches: object) -> Path:
    """Writes an untrained checkpoint whose recipe has these switches, and returns its path."""
    initialize(dataclasses.replace(TINY, **switches), out, backbone)  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("attends", ["everything", "reason"])
@pytest.mark.parametrize("pooling", ["embed", "concat"])
def test_the_traced_forward_equals_the_model(
    family: str, attends: str, pooling: str, backbones: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """The vectors are equal for texts and pictures of several lengths in one batch.

    In the control, the switch is turned back in PyTorch, and the vectors differ.
    """
    checkpoint = checkpoint_with(
        backbones[family], tmp_path / "model", embed_attends=attends, pooling=pooling
    )
    encoder, model = load_encoder_and_model(checkpoint)
    items = [
        *INPUTS,
        {"image": str(data / "images/eval/3-00001.png")},
        {"image": str(data / "images/eval/1-00001.png"), "text": "seven"},
    ]
    theirs = encoder.encode(items)
    ours = Encoder(encoder.preparer, TracedBackend(model, encoder.preparer.contract)).encode(items)
    assert np.abs(theirs - ours).max() < 1e-5
    if attends == "reason":
        model.embed_attends = "everything"
        assert np.abs(encoder.encode(items) - ours).max() > 1e-3


def test_a_bundle_with_both_switches_meets_the_gates(
    backbones: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """The bundle is certified, and its vectors equal PyTorch's."""
    checkpoint = checkpoint_with(
        backbones["qwen2_vl"], tmp_path / "model", embed_attends="reason", pooling="concat"
    )
    # The two graphs that are judged as they are, without an emulation.
    graphs = ("fp32", "int8-cpu")
    export(checkpoint, tmp_path / "bundle", data, graphs, per_modality=3, calibration=4)
    with Encoder.load(tmp_path / "bundle") as encoder:
        theirs = load_encoder(checkpoint).encode(INPUTS)
        assert np.abs(encoder.encode(INPUTS) - theirs).max() < 1e-4
