"""Plans are proved on the device: in every profile, by golden vectors that are the exported ones, and never judged by a GPU's fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_export.__main__ import main
from lame_export.engine import build as building
from lame_runtime import BackendError, BundleError, Encoder
from lame_runtime.__main__ import main as runtime_main
from lame_runtime.backends import _cudart
from lame_runtime.errors import InputError
from lame_runtime.plans import Build
from recording_gpu import RecordingCudart
from recording_gpu.placed import DEVICE, built, load

VISION = {"pictures": [1, 1, 64], "patches": [4, 16, 64]}
ENCODER = {"batch": [1, 1, 64], "length": [6, 64, 600], "n_features": [1, 8, 9999]}


def profiles(path: Path, encoder: list[dict[str, list[int]]], vision: list[dict[str, list[int]]] | None = None) -> str:
    """A file of profiles."""
    path.write_text(json.dumps({"vision": vision or [VISION], "encoder": encoder}))
    return str(path)


def spoil(monkeypatch: pytest.MonkeyPatch, part: str, profile: int) -> None:
    """One profile's kernels compute nonsense."""
    real = building.build_plan

    def build_plan(path: Path, *arguments: Any, **more: Any) -> tuple[bytes, bytes]:
        plan, cache = real(path, *arguments, **more)
        return json.dumps(json.loads(plan) | {"wrong_profiles": [profile] * path.name.startswith(part)}).encode(), cache

    monkeypatch.setattr(building, "build_plan", build_plan)


@pytest.mark.parametrize("fault", ["memory", "launch"])
def test_a_fault_of_the_gpu_condemns_no_plans(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    """Another process holds the memory, or the GPU fails: an error with its remedy, no verdict, and the plans stay."""
    with monkeypatch.context() as patch:
        if fault == "memory":
            patch.setattr(gpu, "total", 100_000)
        else:
            patch.setattr(gpu, "broken", {"cudaStreamSynchronize": 700})
        for arguments in ([], ["--fallback"]):
            assert main(["engine", str(bundle), *arguments]) == 1
            error = capsys.readouterr().err
            assert error.startswith("error: out of GPU memory" if fault == "memory" else "error: CUDA: cudaStreamSynchronize failed")
            assert error.count("\n") == 1
            (folder,) = built(bundle)
            assert sorted(path.name for path in folder.iterdir()) == ["build.json", "encoder.plan", "vision.plan"]
        assert runtime_main(["verify", str(bundle), "--backend", "tensorrt"]) == 1
        assert not (folder / DEVICE).exists()
        if fault == "launch":  # nothing can be given back to such a GPU
            for left in (gpu.live, gpu.streams):
                left.clear()
    load(bundle).close()
    assert json.loads((folder / DEVICE).read_text())["passed"]


@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_every_profile_is_proved(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """The second is never taken before the first where both suit; its kernels run all the same, and their fault is found."""
    given = {"vision": [VISION] * (1 + (part == "vision")), "encoder": [ENCODER] * (1 + (part == "encoder"))}
    file = profiles(tmp_path / "p.json", **given)
    assert main(["engine", str(bundle), "--profile", file]) == 0
    rows = json.loads((built(bundle)[0] / DEVICE).read_text())["rows"]
    for number in (1, 2):
        (row,) = [row for row in rows if row["comparison"] == f"graph vs PyTorch, {part} profile {number} of 2"]
        assert row["passed"]
        assert row["inputs"] > 3
    spoil(monkeypatch, part, 1)
    capsys.readouterr()
    assert main(["engine", str(bundle), "--profile", file, "--rebuild"]) == 1
    assert f"not to be trusted on this device: graph vs PyTorch, {part} profile 2 of 2 mixed: min_cosine" in capsys.readouterr().err


def test_what_is_not_proved_is_said(gpu: RecordingCudart, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Golden inputs that fit no profile, and profiles that no golden input fits."""
    encoder = [ENCODER | {"length": [6, 40, 40]}, ENCODER | {"length": [5000, 5000, 5000]}]
    assert main(["engine", str(bundle), "--profile", profiles(tmp_path / "p.json", encoder)]) == 0
    said = capsys.readouterr().out
    assert "golden inputs fit no profile and were not run, 1 profiles that no golden input fits" in said
    (folder,) = built(bundle)
    device = json.loads((folder / DEVICE).read_text())
    assert device["fit_no_profile"] > 0
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt"]) == 0
    shown = capsys.readouterr().out
    assert f"{device['fit_no_profile']} golden inputs fit no profile" in shown
    assert f"this device's certificate: {folder / DEVICE}\n" in shown


def test_damaged_golden_vectors_condemn_no_plans(gpu: RecordingCudart, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their hashes are looked at before they judge."""
    golden = np.load(bundle / "golden/embeddings.npy")
    np.save(bundle / "golden/embeddings.npy", golden[::-1])
    assert main(["engine", str(bundle), "--fallback"]) == 2
    assert "embeddings.npy: differs from what was exported" in capsys.readouterr().err
    (folder,) = built(bundle)
    assert not (folder / DEVICE).exists()
    with pytest.raises(BundleError, match=r"embeddings\.npy: differs"):
        Encoder.load(bundle)
    np.save(bundle / "golden/embeddings.npy", golden)
    load(bundle).close()


def test_another_driver_is_another_device(gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden vectors run again after an update, even of one that knows the same CUDA."""
    told = tmp_path / "version"
    monkeypatch.setattr(_cudart, "_RELEASES", (told,))
    told.write_text("550.54.15\n")
    assert main(["engine", str(bundle)]) == 0
    for release, proved in (("550.54.15", "before"), ("550.90.07", "now"), ("550.90.07", "before")):
        told.write_text(release + "\n")
        with load(bundle) as encoder:
            assert f"proved on this device {proved}" in encoder.reason


def test_plans_that_cannot_be_written_beside_are_proved_once(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The certificate goes to the user's cache, is read there, and `verify` says where; nowhere, and that is said."""
    from lame_runtime import device_check

    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    (folder / DEVICE).unlink()
    real, closed = device_check.atomic_text, [str(bundle)]

    def atomic_text(target: Path, text: str) -> None:
        if str(target).startswith(tuple(closed)):
            raise InputError(f"{target}: cannot be written")
        real(target, text)

    monkeypatch.setattr(device_check, "atomic_text", atomic_text)
    for proved in ("now", "before"):
        with load(bundle) as encoder:
            assert f"proved on this device {proved}" in encoder.reason
    (certificate,) = (tmp_path / "cache/lame/engines").glob(f"*/{folder.name}/{DEVICE}")
    capsys.readouterr()
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt"]) == 0
    assert f"this device's certificate: {certificate}\n" in capsys.readouterr().out
    assert not Build(folder, json.loads((folder / "build.json").read_text())).refused(encoder.bundle)
    certificate.write_text(certificate.read_text().replace('"passed": true', '"passed": false', 1))
    assert Build(folder, json.loads((folder / "build.json").read_text())).refused(encoder.bundle)
    certificate.unlink()
    closed.append(str(tmp_path))
    with load(bundle) as encoder:
        assert "certificate could not be written, so this is done at each load" in encoder.reason


def test_a_stale_graph_does_not_take_the_others_rows_away(gpu: RecordingCudart, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a failed row with its reason; where no graph runs, that is the error."""
    for graph in ("fp32", "fp16"):
        assert main(["engine", str(bundle), "--graph", graph]) == 0
    stale = next(path for path in built(bundle) if path.name.startswith("fp32"))
    (stale / "encoder.plan").write_bytes(b"other")
    capsys.readouterr()
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt", "--json"]) == 1
    outcome = json.loads(capsys.readouterr().out)
    passed = {graph: {row["passed"] for row in outcome["rows"] if row["graph"] == graph} for graph in ("fp16", "fp32")}
    assert passed == {"fp16": {True}, "fp32": {False}}
    assert "is not the file that was built" in outcome["rows"][-1]["reason"]
    assert len(outcome["certificates"]) == 1
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt", "--graph", "fp32"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_plan_that_is_exchanged_after_the_check_is_not_run(gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TensorRT reads is what is hashed."""
    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    real = Build.unusable

    def unusable(self: Build, *arguments: Any, **options: Any) -> str | None:
        reason = real(self, *arguments, **options)
        plan = json.loads((folder / "encoder.plan").read_text())
        (folder / "encoder.plan").write_text(json.dumps(plan | {"exchanged": True}))
        return reason

    monkeypatch.setattr(Build, "unusable", unusable)
    with pytest.raises(BackendError, match=r"encoder\.plan: is not the file that was built"):
        load(bundle)
