"""Plans are proved on the device, in every profile, by the golden vectors that were exported.

A fault of the GPU, or damaged golden vectors, say nothing about the plans.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_export.__main__ import main
from lame_export.engine import build as build_module
from lame_runtime import BackendError, BundleError, Encoder
from lame_runtime.__main__ import main as runtime_main
from lame_runtime.backends.tensorrt import cudart
from lame_runtime.backends.tensorrt.plans import Build, read_facts
from recording_gpu import RecordingCudart
from recording_gpu.placed import DEVICE, built, load

# The smallest profiles that every golden input of the test bundle fits.
VISION = {"pictures": [1, 1, 64], "patches": [4, 16, 64]}
ENCODER = {"batch": [1, 1, 64], "length": [6, 64, 600], "n_features": [1, 8, 9999]}


def write_profiles(
    path: Path,
    encoder: list[dict[str, list[int]]],
    vision: list[dict[str, list[int]]] | None = None,
) -> str:
    """Writes a file of profiles and returns its path."""
    path.write_text(json.dumps({"vision": vision or [VISION], "encoder": encoder}))
    return str(path)


def spoil(monkeypatch: pytest.MonkeyPatch, part: str, profile: int) -> None:
    """Makes the kernels of one profile of a part compute wrong numbers."""
    real = build_module.build_plan

    def build_plan(path: Path, *arguments: Any, **options: Any) -> tuple[bytes, bytes]:
        plan, cache = real(path, *arguments, **options)
        wrong = [profile] if path.name.startswith(part) else []
        return json.dumps(json.loads(plan) | {"wrong_profiles": wrong}).encode(), cache

    monkeypatch.setattr(build_module, "build_plan", build_plan)


@pytest.mark.parametrize("fault", ["memory", "launch"])
def test_a_fault_of_the_gpu_condemns_no_plans(
    gpu: RecordingCudart,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_errors: Callable[[], str],
    fault: str,
) -> None:
    """If another process holds the memory, or the GPU fails, the error says so and the plans stay.

    No certificate is written, and the plans are proved once the GPU works.
    """
    with monkeypatch.context() as patch:
        if fault == "memory":
            patch.setattr(gpu, "total", 100_000)
        else:
            # 700 is cudaErrorIllegalAddress, after which no call on the GPU succeeds.
            patch.setattr(gpu, "broken", {"cudaStreamSynchronize": 700})
        for arguments in ([], ["--fallback"]):
            assert main(["engine", str(bundle), *arguments]) == 1
            error = read_errors()
            assert error.startswith(
                "error: out of GPU memory"
                if fault == "memory"
                else "error: CUDA: cudaStreamSynchronize failed"
            )
            assert error.count("\n") == 1
            (folder,) = built(bundle)
            assert sorted(path.name for path in folder.iterdir()) == [
                "build.json",
                "encoder.plan",
                "vision.plan",
            ]
        # `verify` fails as well, and must not leave a verdict either.
        assert runtime_main(["verify", str(bundle), "--backend", "tensorrt"]) == 1
        assert not (folder / DEVICE).exists()
        if fault == "launch":
            # Nothing can be released on a GPU that failed.
            gpu.live.clear()
            gpu.streams.clear()
    load(bundle).close()
    assert json.loads((folder / DEVICE).read_text())["passed"]


@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_every_profile_is_proved(
    gpu: RecordingCudart,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    part: str,
) -> None:
    """Inputs that fit two profiles always run in the first one; the proof runs the second as well.

    A fault of the second profile's kernels is found, and the message names the profile.
    """
    profiles = {
        "vision": [VISION] * (1 + (part == "vision")),
        "encoder": [ENCODER] * (1 + (part == "encoder")),
    }
    # Two equal profiles: TensorRT builds kernels for each.
    file = write_profiles(tmp_path / "p.json", **profiles)
    assert main(["engine", str(bundle), "--profile", file]) == 0
    rows = json.loads((built(bundle)[0] / DEVICE).read_text())["rows"]
    for number in (1, 2):
        (row,) = [
            row
            for row in rows
            if row["comparison"] == f"graph vs PyTorch, {part} profile {number} of 2"
        ]
        assert row["passed"]
        assert row["inputs"] > 3
    spoil(monkeypatch, part, 1)
    capsys.readouterr()
    assert main(["engine", str(bundle), "--profile", file, "--rebuild"]) == 1
    failed_row = f"graph vs PyTorch, {part} profile 2 of 2 mixed: min_cosine"
    assert f"not to be trusted on this device: {failed_row}" in capsys.readouterr().err


def test_what_is_not_proved_is_reported(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report counts golden inputs without a profile, and profiles without a golden input."""
    # One profile that is too short for some golden inputs, and one that is too long for all.
    encoder = [ENCODER | {"length": [6, 40, 40]}, ENCODER | {"length": [5000, 5000, 5000]}]
    file = write_profiles(tmp_path / "p.json", encoder)
    assert main(["engine", str(bundle), "--profile", file]) == 0
    report = capsys.readouterr().out
    assert (
        "golden inputs fit no profile and were not run, 1 profiles that no golden input fits"
        in report
    )
    (folder,) = built(bundle)
    device = json.loads((folder / DEVICE).read_text())
    assert device["fit_no_profile"] > 0
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt"]) == 0
    report = capsys.readouterr().out
    assert f"{device['fit_no_profile']} golden inputs fit no profile" in report
    assert f"this device's certificate: {folder / DEVICE}\n" in report


def test_damaged_golden_vectors_condemn_no_plans(
    gpu: RecordingCudart, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their hashes are checked before they are compared with anything."""
    golden = np.load(bundle / "golden/embeddings.npy")
    # Right vectors in the wrong order: only the hash can tell.
    np.save(bundle / "golden/embeddings.npy", golden[::-1])
    assert main(["engine", str(bundle), "--fallback"]) == 2
    assert "embeddings.npy: differs from what was exported" in capsys.readouterr().err
    (folder,) = built(bundle)
    assert not (folder / DEVICE).exists()
    with pytest.raises(BundleError, match=r"embeddings\.npy: differs"):
        Encoder.load(bundle)
    np.save(bundle / "golden/embeddings.npy", golden)
    load(bundle).close()


def test_another_driver_is_another_device(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden vectors run again after a driver update, even if it supports the same CUDA version."""
    release_file = tmp_path / "version"
    monkeypatch.setattr(cudart, "DRIVER_VERSION_FILES", (release_file,))
    release_file.write_text("550.54.15\n")
    assert main(["engine", str(bundle)]) == 0
    for release, proved in (("550.54.15", "before"), ("550.90.07", "now"), ("550.90.07", "before")):
        release_file.write_text(release + "\n")
        with load(bundle) as encoder:
            assert f"proved on this device {proved}" in encoder.reason


def test_a_certificate_that_cannot_lie_beside_the_plans_goes_to_the_cache(
    gpu: RecordingCudart,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is read from the cache, and `verify` says where it is.

    If it can be written nowhere, the plans are proved at each load, and the reason says so.
    """
    from lame_runtime.parity import on_device

    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    (folder / DEVICE).unlink()
    real, read_only = on_device.atomic_text, [str(bundle)]

    def atomic_text(target: Path, text: str) -> None:
        if str(target).startswith(tuple(read_only)):
            # Fails with the error that a file system without permission gives.
            target = target.parent / "no such folder" / target.name
        real(target, text)

    monkeypatch.setattr(on_device, "atomic_text", atomic_text)
    for proved in ("now", "before"):
        with load(bundle) as encoder:
            assert f"proved on this device {proved}" in encoder.reason
    (certificate,) = (tmp_path / "cache/lame/engines").glob(f"*/{folder.name}/{DEVICE}")
    capsys.readouterr()
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt"]) == 0
    assert f"this device's certificate: {certificate}\n" in capsys.readouterr().out
    facts = read_facts(folder / "build.json")
    assert facts is not None
    assert not Build(folder, facts).failed_somewhere(encoder.bundle)
    # A failed certificate in the cache counts like one beside the plans.
    certificate.write_text(certificate.read_text().replace('"passed": true', '"passed": false', 1))
    assert Build(folder, facts).failed_somewhere(encoder.bundle)
    certificate.unlink()
    # The cache is below it, too, so there is no place left for the certificate.
    read_only.append(str(tmp_path))
    with load(bundle) as encoder:
        assert "certificate could not be written, so this is done at each load" in encoder.reason


def test_a_stale_graph_does_not_hide_the_rows_of_the_others(
    gpu: RecordingCudart, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a failed row with its reason; if no graph runs at all, `verify` ends with an error."""
    for graph in ("fp32", "fp16"):
        assert main(["engine", str(bundle), "--graph", graph]) == 0
    # The hash of its plan no longer fits, so the FP32 graph has no plans that may run.
    stale = next(path for path in built(bundle) if path.name.startswith("fp32"))
    (stale / "encoder.plan").write_bytes(b"other")
    capsys.readouterr()
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt", "--json"]) == 1
    outcome = json.loads(capsys.readouterr().out)
    passed = {
        graph: {row["passed"] for row in outcome["rows"] if row["graph"] == graph}
        for graph in ("fp16", "fp32")
    }
    assert passed == {"fp16": {True}, "fp32": {False}}
    assert "is not the file that was built" in outcome["rows"][-1]["reason"]
    assert len(outcome["certificates"]) == 1
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt", "--graph", "fp32"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_plan_that_is_replaced_after_the_check_is_not_run(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that TensorRT reads are the bytes that are hashed."""
    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    real = Build.unusable

    def unusable(self: Build, *arguments: Any, **options: Any) -> str | None:
        reason = real(self, *arguments, **options)
        # Between the check and the load, another process writes the file.
        plan = json.loads((folder / "encoder.plan").read_text())
        (folder / "encoder.plan").write_text(json.dumps(plan | {"replaced": True}))
        return reason

    monkeypatch.setattr(Build, "unusable", unusable)
    with pytest.raises(BackendError, match=r"encoder\.plan: is not the file that was built"):
        load(bundle)
