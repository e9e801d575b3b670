"""The model's switches reach the graphs: [EMBED] that sees the reason tokens alone, a head over all latent states."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from lame_export.parity import TracedBackend
from lame_export.plan import export
from lame_runtime import Encoder
from lame_training.loop import initialise
from lame_training.recipes import find_recipe
from lame_training.torch_backend import load_encoder, load_encoder_and_model

TINY = find_recipe("digits-tiny")
INPUTS = ["seven", "digits that add up to fifteen", "a much longer text that is padded against the others in its batch"]


def checkpoint_with(backbone: Path, out: Path, **switches: object) -> Path:
    initialise(dataclasses.replace(TINY, **switches), out, backbone)  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("attends", ["everything", "reason"])
@pytest.mark.parametrize("pooling", ["embed", "concat"])
def test_the_traced_forward_equals_the_model(
    family: str, attends: str, pooling: str, backbones: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """Texts and pictures of several lengths in one batch; with another switch the vectors are others."""
    found = checkpoint_with(backbones[family], tmp_path / "model", embed_attends=attends, pooling=pooling)
    encoder, model = load_encoder_and_model(found)
    items = [*INPUTS, {"image": str(data / "images/eval/3-00001.png")}, {"image": str(data / "images/eval/1-00001.png"), "text": "seven"}]
    theirs, ours = encoder.encode(items), Encoder(encoder.preparer, TracedBackend(model)).encode(items)
    assert np.abs(theirs - ours).max() < 1e-5
    if attends == "reason":
        model.embed_attends = "everything"
        assert np.abs(encoder.encode(items) - ours).max() > 1e-3


def test_a_bundle_with_both_switches_meets_the_gates(backbones: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Exported, certified, and equal to PyTorch."""
    found = checkpoint_with(backbones["qwen2_vl"], tmp_path / "model", embed_attends="reason", pooling="concat")
    export(found, tmp_path / "bundle", data, ("fp32", "int8-cpu"), per_modality=3, calibration=4)
    with Encoder.load(tmp_path / "bundle") as encoder:
        assert np.abs(encoder.encode(INPUTS) - load_encoder(found).encode(INPUTS)).max() < 1e-4
