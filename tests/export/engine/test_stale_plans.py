"""Plans that do not fit, or that this account did not build, are named and not used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lame_export.__main__ import main
from lame_runtime import BackendError, Encoder
from lame_runtime.__main__ import main as runtime_main
from recording_gpu import RecordingCudart
from recording_gpu.placed import built, install, load


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("version", "stale, built by tensorrt 10.3.0, this is tensorrt 10.7.0"),
        ("gpu", r"stale, built for Recorded GPU, this is Another \(sm89\)"),
        ("graph", "stale, the graph has been exported again since"),
        ("plan", r"stale, encoder\.plan is not the file that was built"),
        ("facts", "stale, not built by this account on this machine; a plan is code"),
        ("account", "stale, not built by this account on this machine; a plan is code"),
        ("none", "none was built"),
    ],
)
def test_a_stale_plan_is_named_and_not_used(
    gpu: RecordingCudart,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    reason: str,
) -> None:
    """The error for TensorRT says why and how to build one.

    Without a backend asked for, ONNX Runtime runs, and its reason says why the plans do not.
    """
    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    if change == "version":
        install(monkeypatch, gpu, "10.7.0")
    elif change == "gpu":
        install(monkeypatch, RecordingCudart(name="Another", capability=(8, 9)), "10.3.0")
    elif change == "graph":
        monkeypatch.setattr(
            "lame_runtime.bundle.bundle.Bundle.graph_hashes",
            lambda bundle, graph: {"graphs/encoder.fp16.onnx": "other"},
        )
    elif change == "plan":
        (folder / "encoder.plan").write_bytes(b"other")
    elif change == "facts":
        # A forged option: the keyed hash covers it.
        text = (folder / "build.json").read_text()
        (folder / "build.json").write_text(
            text.replace('"optimization_level": null', '"optimization_level": 5')
        )
    elif change == "account":
        # Another account has another key.
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    else:
        shutil.rmtree(folder)
    with pytest.raises(
        BackendError,
        match=rf"no fp16 plan for tensorrt .*{reason}.*; build one here: lame-export engine",
    ):
        load(bundle)
    # Without plans there is nothing to explain.
    with Encoder.load(bundle) as encoder:
        assert encoder.backend.name.startswith("onnxruntime")
        assert ("TensorRT plans are there but not used" in encoder.reason) == (change != "none")


def test_plans_of_another_account_run_if_they_are_trusted(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--trust-plans` accepts another account's plans, but never damaged ones."""
    assert main(["engine", str(bundle)]) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    vectors = str(tmp_path / "v.npy")
    command = ["embed", str(bundle), "--text", "seven", "-o", vectors, "--backend", "tensorrt"]
    assert runtime_main(command) == 1
    assert runtime_main([*command, "--trust-plans"]) == 0
    # Trust replaces the keyed hash of the facts, but not the hashes of the files.
    (built(bundle)[0] / "encoder.plan").write_bytes(b"other")
    with pytest.raises(BackendError, match="is not the file that was built"):
        load(bundle, trust_plans=True)


def test_compatible_and_stripped_plans_run_on_what_they_are_built_for(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run on later versions of the same major version and on other GPUs from Ampere on.

    Their weights come from the bundle. A Turing GPU, another major version and an earlier version
    are refused.
    """
    options = ["--version-compatible", "--hardware-compatible", "--strip-weights"]
    assert main(["engine", str(bundle), *options]) == 0
    later = RecordingCudart(name="Another", capability=(8, 9))
    install(monkeypatch, later, "10.16.1")
    with load(bundle) as encoder, Encoder.load(bundle, backend="onnxruntime", graph="fp16") as ours:
        assert np.abs(encoder.encode("seven") - ours.encode("seven")).max() < 1e-5
    later.assert_released()
    for other, version in (
        # Turing is older than Ampere.
        (RecordingCudart(name="Turing", capability=(7, 5)), "10.16.1"),
        (later, "11.4.0"),
        (later, "10.2.9"),
    ):
        install(monkeypatch, other, version)
        with pytest.raises(BackendError):
            load(bundle)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format_version": 1}', "no version", "no seal"])
def test_a_damaged_or_forged_build_json_does_no_harm(
    gpu: RecordingCudart, bundle: Path, damage: str
) -> None:
    """Such a folder is no build, or not this account's: there is no traceback.

    ONNX Runtime runs instead, also with a number of threads.
    """
    assert main(["engine", str(bundle)]) == 0
    path = built(bundle)[0] / "build.json"
    facts = json.loads(path.read_text())
    # Types that the format does not have.
    forged = {
        "no version": json.dumps({**facts, "version": "x"}),
        "no signature": json.dumps({**facts, "signature": 5}),
    }
    path.write_text(forged.get(damage, damage))
    with Encoder.load(bundle) as encoder:
        assert encoder.backend.name.startswith("onnxruntime")
    with pytest.raises(BackendError, match="no fp16 plan"):
        load(bundle)
    Encoder.load(bundle, threads=1).close()
