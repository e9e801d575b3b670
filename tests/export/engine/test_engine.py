"""`lame-export engine`: profiles that fit the contract, plans that are keyed, sealed, found, refused and proved."""

from __future__ import annotations

import io
import json
import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_export.__main__ import main
from lame_export.engine import build as building
from lame_export.engine import ladder
from lame_export.engine.network import Options, build_plan
from lame_export.engine.profiles import DIMENSIONS, KINDS, Widths, derive, widths_of
from lame_export.engine.progress import make_monitor
from lame_export.errors import ExportError
from lame_runtime import BackendError, Encoder, InputError
from lame_runtime.__main__ import main as runtime_main
from lame_runtime.backends._tensorrt import load_tensorrt
from lame_runtime.batching import assemble
from lame_runtime.bundle import Bundle
from lame_runtime.contract import Contract, Preparer
from lame_runtime.golden import read_golden
from recording_gpu import GpuMisuseError, RecordingCudart, make_tensorrt
from recording_gpu.placed import DEVICE, built, install, load
from tqdm import tqdm

GIB = 1 << 30
SMALL = {"encoder": Widths(64, 128, 2), "vision": Widths(64, 128, 2)}


VERSIONS = [("tensorrt", "10.3.0"), ("tensorrt", "11.4.0"), ("tensorrt_rtx", "1.7.0")]


@pytest.mark.parametrize(("module", "version"), VERSIONS)
def test_a_build_is_proved_and_then_embeds(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str, version: str
) -> None:
    """Built, golden vectors met, certificate of the device beside the plans; loading takes it by itself and says so; and verified."""
    install(monkeypatch, gpu, version, module)
    assert main(["engine", str(bundle)]) == 0
    assert "proved on this device now" in capsys.readouterr().out
    (folder,) = built(bundle)
    device = json.loads((folder / DEVICE).read_text())
    assert device["passed"]
    assert device["device"]["capability"] == "sm86"
    with Encoder.load(bundle) as encoder, Encoder.load(bundle, backend="onnxruntime", graph="fp16") as ours:
        assert encoder.backend.name == f"{module} {version} on Recorded GPU"
        assert "proved on this device before" in encoder.reason
        assert np.abs(encoder.encode(["seven", "two"]) - ours.encode(["seven", "two"])).max() < 1e-5
    assert Bundle.open(bundle).check_all() > 0, "plans are outside the hashed set"
    assert runtime_main(["info", str(bundle)]) == 0
    assert f"{module} {version} on Recorded GPU" in capsys.readouterr().out
    assert runtime_main(["verify", str(bundle), "--backend", module.replace("_", "-")]) == 0
    assert f"rows hold on this device ({module} {version} on Recorded GPU)" in capsys.readouterr().out


def test_the_same_build_is_found_and_another_is_not(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graph, profile and options are in the key; what is built twice is built once, unless damaged or asked for."""
    calls: list[str] = []
    real = building.build_plan
    monkeypatch.setattr(building, "build_plan", lambda path, *rest, **more: (calls.append(path.name), real(path, *rest, **more))[1])
    for arguments in ([], ["--profile", "throughput"], ["--optimization-level", "1"], ["--graph", "fp32"], ["--hardware-compatible"]):
        before = len(calls)
        for _ in range(2):
            assert main(["engine", str(bundle), *arguments]) == 0
        assert len(calls) == before + 2, arguments
    assert len(built(bundle)) == 5
    assert main(["engine", str(bundle), "--rebuild"]) == 0
    (built(bundle)[0] / "vision.plan").write_bytes(b"short")
    assert main(["engine", str(bundle), "--graph", built(bundle)[0].name.split(".")[0]]) == 0
    assert len(list((tmp_path / "cache/lame/engines/timing").iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("version", "stale, built by tensorrt 10.3.0, this is tensorrt 10.7.0"),
        ("gpu", r"stale, built for Recorded GPU, this is Another \(sm89\)"),
        ("graph", "stale, the graph was exported anew since"),
        ("plan", r"stale, encoder\.plan is not the file that was built"),
        ("facts", "stale, not built by this account on this machine; a plan is code"),
        ("account", "stale, not built by this account on this machine; a plan is code"),
        ("none", "none was built"),
    ],
)
def test_a_stale_plan_is_named_and_not_used(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, said: str
) -> None:
    """With what to do; asked for nothing in particular, ONNX Runtime runs and the reason says why."""
    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    if change == "version":
        install(monkeypatch, gpu, "10.7.0")
    elif change == "gpu":
        install(monkeypatch, RecordingCudart(name="Another", capability=(8, 9)), "10.3.0")
    elif change == "graph":
        monkeypatch.setattr("lame_runtime.plans.graph_hashes", lambda bundle, graph: {"graphs/encoder.fp16.onnx": "other"})
    elif change == "plan":
        (folder / "encoder.plan").write_bytes(b"other")
    elif change == "facts":
        text = (folder / "build.json").read_text()
        (folder / "build.json").write_text(text.replace('"optimization_level": null', '"optimization_level": 5'))
    elif change == "account":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    else:
        shutil.rmtree(folder)
    with pytest.raises(BackendError, match=rf"no fp16 plan for tensorrt .*{said}.*; build one here: lame-export engine"):
        load(bundle)
    with Encoder.load(bundle) as encoder:
        assert encoder.backend.name.startswith("onnxruntime")
        assert ("TensorRT plans are there but not used" in encoder.reason) == (change != "none")


def test_plans_of_another_account_run_where_they_are_trusted(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a flag; damaged ones never."""
    assert main(["engine", str(bundle)]) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    out = ["embed", str(bundle), "--text", "seven", "-o", str(tmp_path / "v.npy"), "--backend", "tensorrt"]
    assert runtime_main(out) == 1
    assert runtime_main([*out, "--trust-plans"]) == 0
    (built(bundle)[0] / "encoder.plan").write_bytes(b"other")
    with pytest.raises(BackendError, match="is not the file that was built"):
        load(bundle, trust_plans=True)


def test_compatible_and_stripped_plans_run_where_they_may(gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later TensorRT of the same major version, another GPU from Ampere on; weights come from the bundle."""
    assert main(["engine", str(bundle), "--version-compatible", "--hardware-compatible", "--strip-weights"]) == 0
    later = RecordingCudart(name="Another", capability=(8, 9))
    install(monkeypatch, later, "10.16.1")
    with load(bundle) as encoder, Encoder.load(bundle, backend="onnxruntime", graph="fp16") as ours:
        assert np.abs(encoder.encode("seven") - ours.encode("seven")).max() < 1e-5
    later.assert_released()
    for other, version in ((RecordingCudart(name="Turing", capability=(7, 5)), "10.16.1"), (later, "11.4.0"), (later, "10.2.9")):
        install(monkeypatch, other, version)
        with pytest.raises(BackendError):
            load(bundle)


@pytest.mark.parametrize(("module", "version"), VERSIONS)
def test_what_is_asked_for_reaches_the_builder(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch, module: str, version: str
) -> None:
    """Flags, level and memory; TF32, which is on by default, is off."""
    install(monkeypatch, gpu, version, module)
    assert main(["engine", str(bundle), "--workspace", "0.5", "--optimization-level", "1", "--strip-weights"]) == 0
    (folder,) = built(bundle)
    for part in ("vision", "encoder"):
        plan = json.loads((folder / f"{part}.plan").read_text())
        assert plan["pools"] == {"WORKSPACE": GIB // 2}
        assert plan["level"] == 1
        assert plan["flags"] == ["REFIT_IDENTICAL", "STRIP_PLAN"]


@pytest.mark.parametrize("graph", ["fp16", "int8"])
@pytest.mark.parametrize(("module", "version"), VERSIONS)
def test_rungs_widen_the_network_of_every_version(exported: Path, graph: str, module: str, version: str) -> None:
    """Types stay right: a rung that leaves a reader with inputs of two types is refused, as a strongly typed network would be."""
    trt = make_tensorrt(gpu := RecordingCudart(), version, module)
    casts: dict[str, list[int]] = {"vision": [], "encoder": []}
    for part, counts in casts.items():
        for rung in range(3):
            plan, _ = build_plan(exported / f"graphs/{part}.{graph}.onnx", [], Options(), trt, edit=partial(ladder.edit, rung))
            counts.append(json.loads(plan)["casts"])
        assert counts[0] == 0
        assert counts == sorted(set(counts))
    gpu.assert_released()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "_readers", lambda network, value: [])
        with pytest.raises(GpuMisuseError, match="its inputs are of two types"):
            build_plan(exported / f"graphs/encoder.{graph}.onnx", [], Options(), trt, edit=partial(ladder.edit, 1))


def test_the_bar_ends_where_the_build_does(exported: Path) -> None:
    """All steps of all phases, those a phase left out as well."""
    trt = make_tensorrt(RecordingCudart())
    with tqdm(total=0, file=io.StringIO()) as bar:
        monitor = make_monitor(trt, bar, threading.Event())
        build_plan(exported / "graphs/encoder.fp16.onnx", [], Options(), trt, monitor=monitor)
        assert bar.n == bar.total == 5
        monitor.phase_start("more", "build", 4)
        monitor.step_complete("more", 0)
        assert (bar.n, bar.total) == (6, 9)
        monitor.phase_finish("more")
        assert bar.n == bar.total == 9


@pytest.mark.parametrize(("right_from", "rung"), [(0, "as exported"), (1, "attention unfused"), (2, "more in FP32"), (3, "FP32")])
def test_wrong_numbers_are_refused_and_the_ladder_is_climbed(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], right_from: int, rung: str
) -> None:
    """Refused with figure and place, the ladder named; with --fallback it is climbed as far as needed, and what was taken is recorded."""
    spoil(monkeypatch, right_from)
    if right_from:
        with pytest.raises(BackendError, match="none was built"):
            load(bundle)
        assert main(["engine", str(bundle)]) == 1
        error = capsys.readouterr().err
        assert "not to be trusted on this device: graph vs PyTorch" in error
        assert "--fallback" in error
        with pytest.raises(BackendError, match=r"not to be trusted .*min_cosine -?0\.\d+ \(>= 0\.999\)"):
            load(bundle)
        with Encoder.load(bundle) as encoder:
            assert encoder.backend.name.startswith("onnxruntime")
            assert "TensorRT plans are there but not used" in encoder.reason
    assert main(["engine", str(bundle), "--fallback", "--rebuild"]) == 0
    (folder,) = built(bundle)
    assert json.loads((folder / "build.json").read_text())["rung"] == rung
    device = json.loads((folder / DEVICE).read_text())
    assert (device["rung"], device["built_graph"]) == (rung, "fp32" if rung == "FP32" else "fp16")
    with load(bundle) as encoder, Encoder.load(bundle, backend="onnxruntime", graph="fp32") as ours:
        told = {"as exported": "", "FP32": "fallback: FP32, graph fp32"}.get(rung, f"fallback: {rung}")
        assert told in encoder.reason
        assert encoder.backend.name.endswith(f" ({told})" if told else "Recorded GPU")
        assert float((encoder.encode("seven") * ours.encode("seven")).sum()) > 0.999


def spoil(monkeypatch: pytest.MonkeyPatch, right_from: int) -> None:
    """Plans below a rung compute nonsense."""
    rungs: list[int] = []
    real_edit, real_build = building.edit, building.build_plan

    def edit(rung: int, trt: Any, network: Any) -> None:
        rungs.append(rung)
        real_edit(rung, trt, network)

    def build_plan(*arguments: Any, **more: Any) -> tuple[bytes, bytes]:
        plan, cache = real_build(*arguments, **more)
        return json.dumps(json.loads(plan) | {"wrong": rungs[-1] < right_from}).encode(), cache

    monkeypatch.setattr(building, "edit", edit)
    monkeypatch.setattr(building, "build_plan", build_plan)


def test_where_no_rung_helps_nothing_is_left(gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last error, and no plans that anybody could load."""
    spoil(monkeypatch, 99)
    assert main(["engine", str(bundle), "--fallback"]) == 1
    assert built(bundle) == []


def test_verify_on_the_device_writes_its_certificate(gpu: RecordingCudart, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For the graphs that plans were built of."""
    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    (folder / DEVICE).unlink()
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt"]) == 0
    assert "rows hold on this device (tensorrt 10.3.0 on Recorded GPU)" in capsys.readouterr().out
    assert json.loads((folder / DEVICE).read_text())["passed"]


def test_a_read_only_bundle_has_its_plans_in_the_cache(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they are found there."""
    monkeypatch.setattr("lame_runtime.plans.os.access", lambda *rest: False)
    assert main(["engine", str(bundle)]) == 0
    assert built(bundle) == []
    assert len(list((tmp_path / "cache/lame/engines").glob("*/*/build.json"))) == 1
    load(bundle).close()


def test_plans_elsewhere_are_found_where_one_says(gpu: RecordingCudart, bundle: Path, tmp_path: Path) -> None:
    """--out and `engines=`."""
    assert main(["engine", str(bundle), "--out", str(tmp_path / "plans")]) == 0
    load(bundle, engines=tmp_path / "plans").close()
    with pytest.raises(BackendError, match="none was built"):
        load(bundle)


@pytest.mark.parametrize("kind", KINDS)
def test_profiles_take_every_golden_input(exported: Path, kind: str) -> None:
    """The longest text and the largest picture included; tight budgets make batches smaller, and say when nothing fits."""
    contract = Contract.load(exported / "contract.json")
    preparer = Preparer.load(exported)
    roomy = derive(contract, SMALL, kind, 8 * GIB)
    for part, dimensions in DIMENSIONS.items():
        assert all(set(ranges) == set(dimensions) for ranges in roomy[part])
        assert all(low <= usual <= high for ranges in roomy[part] for low, usual, high in ranges.values())
    for each in read_golden(exported).inputs:
        batch = assemble([preparer(each.item, each.role)], contract)
        low, _, high = roomy["encoder"][-1]["length"]
        assert low <= batch.input_ids.shape[1] <= high
        for group in batch.groups:
            low, _, high = roomy["vision"][-1]["patches"]
            assert low <= group.pixel_patches.shape[1] <= high
    tight = derive(contract, SMALL, kind, 4_000_000)
    assert tight["encoder"][-1]["batch"][2] < roomy["encoder"][-1]["batch"][2]
    with pytest.raises(InputError, match=r"an input of \d+ tokens needs 0\.00 GiB of activations and --memory allows 0\.00"):
        derive(contract, SMALL, kind, 1000)


def test_widths_are_in_the_manifest(exported: Path) -> None:
    """Those of the model, not the ones taken for older bundles."""
    widths = widths_of(Bundle.open(exported).manifest["model"])
    assert widths["encoder"].hidden == 64
    assert widths_of({})["encoder"].hidden == 1536


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "no list of profiles named 'vision'"),
        ('{"vision": [{"patches": [1, 2, 3]}], "encoder": []}', "names the dimensions pictures, patches, windows"),
        ('{"vision": [{"pictures": [1, 1, 1], "patches": [4, 2, 8]}]}', "smallest, usual and largest ascend"),
        ('{"vision": [{"pictures": [1, 1, 1], "patches": [4, 8]}]}', "give three positive numbers"),
    ],
)
def test_a_bad_profile_file_is_one_line(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    """It names the file and the value."""
    (tmp_path / "p.json").write_text(content)
    assert main(["engine", str(bundle), "--profile", str(tmp_path / "p.json")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(tmp_path / "p.json") in error
    assert error.count("\n") == 1
    assert built(bundle) == []


@pytest.mark.parametrize(("capability", "runs"), [((9, 0), False), ((8, 6), True), ((12, 3), True)])
def test_a_gpu_that_tensorrt_rtx_does_not_run_on_is_told_before_the_build(
    gpu: RecordingCudart,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    capability: tuple[int, int],
    runs: bool,
) -> None:
    """An H200 is one: TensorRT-RTX builds there, and refuses to load. Those it can target run, and all that are newer."""
    gpu.name, gpu.capability = "NVIDIA H200", capability
    install(monkeypatch, gpu, "1.7.0", "tensorrt_rtx")
    assert main(["engine", str(bundle)]) == (0 if runs else 2)
    error = capsys.readouterr().err
    assert runs or "does not run on NVIDIA H200 (sm90), only on sm86, sm89, sm120 and newer; use TensorRT (--module tensorrt)" in error
    assert bool(built(bundle)) == runs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "sm86"], "--target sm86: tensorrt builds for the GPU at hand only"),
        (["--module", "tensorrt_rtx"], "no TensorRT here"),
        (["--memory", "0"], "--memory 0: give GiB"),
        (["--profile", "fast"], "fast: cannot be read"),
        (["--graph", "int8-cpu"], "int8-cpu is for ONNX Runtime"),
    ],
)
def test_wrong_use_is_one_line(
    gpu: RecordingCudart, bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Nothing is left."""
    assert main(["engine", str(bundle), *arguments]) == (1 if "--module" in arguments else 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert built(bundle) == []


@pytest.mark.parametrize("target", ["none", "current", "sm1", "__doc__"])
def test_only_real_gpus_are_targets(exported: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real module has NONE and CURRENT, too; one that it refuses is an error."""
    with pytest.raises(InputError, match=f"unknown target '{target}': tensorrt_rtx knows sm.*, sm86"):
        build_plan(exported / "graphs/encoder.fp16.onnx", [], Options(target=target), load_tensorrt("tensorrt_rtx"))
    trt = make_tensorrt(RecordingCudart(), "1.7.0", "tensorrt_rtx")
    monkeypatch.setattr(trt.IBuilderConfig, "set_compute_capability", lambda self, compute_capability, index: False)
    with pytest.raises(InputError, match=r"--target sm86: tensorrt_rtx 1\.7\.0 refuses it"):
        build_plan(exported / "graphs/encoder.fp16.onnx", [], Options(target="sm86"), trt)


def test_a_swap_that_fails_leaves_the_old_plans(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They had been moved aside; the error is one line."""
    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    plan, real = (folder / "encoder.plan").stat().st_mtime_ns, Path.rename

    def rename(self: Path, target: Path) -> Path:
        if Path(target) == folder and ".before" not in self.name:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    capsys.readouterr()
    assert main(["engine", str(bundle), "--rebuild"]) == 2
    assert capsys.readouterr().err.endswith("cannot be written (No space left on device); choose another folder with --out\n")
    assert [each.name for each in (bundle / "engines").iterdir()] == [folder.name]
    assert (folder / "encoder.plan").stat().st_mtime_ns == plan


def test_wrong_plans_that_cannot_be_removed_are_one_line(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are named, since they must not be used."""
    spoil(monkeypatch, 99)
    real = shutil.rmtree

    def refuse(folder: Any, **options: Any) -> None:
        if not options:
            raise PermissionError(13, "Permission denied")
        real(folder, **options)

    monkeypatch.setattr(building.shutil, "rmtree", refuse)
    assert main(["engine", str(bundle), "--fallback"]) == 2
    assert "cannot be removed (Permission denied); remove it, as its plans are wrong here" in capsys.readouterr().err


def test_an_account_without_a_home_has_no_cache_and_no_key(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container with an unknown user: ONNX Runtime runs, and sealing plans is refused in one line."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    assert main(["engine", str(bundle)]) == 0
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    load(bundle).close()
    monkeypatch.delenv("XDG_STATE_HOME")
    with Encoder.load(bundle) as encoder:
        assert encoder.backend.name.startswith("onnxruntime")
        assert "no home for the key that seals plans; set XDG_STATE_HOME" in encoder.reason
    capsys.readouterr()
    assert main(["engine", str(bundle), "--rebuild"]) == 2
    assert capsys.readouterr().err == "error: this account has no home for the key that seals plans; set XDG_STATE_HOME\n"
    monkeypatch.setattr("lame_runtime.plans.os.access", lambda *rest: False)
    assert main(["engine", str(bundle), "--rebuild"]) == 2
    assert "set XDG_CACHE_HOME or use --out" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "[]", '{"format_version": 1}', "no version", "no seal"])
def test_a_damaged_or_planted_build_does_not_matter(gpu: RecordingCudart, bundle: Path, damage: str) -> None:
    """No traceback: it is no build, or not ours; ONNX Runtime runs, with threads too."""
    assert main(["engine", str(bundle)]) == 0
    path = built(bundle)[0] / "build.json"
    facts = json.loads(path.read_text())
    text = {"no version": json.dumps({**facts, "version": "x"}), "no seal": json.dumps({**facts, "seal": 5})}.get(damage, damage)
    path.write_text(text)
    with Encoder.load(bundle) as encoder:
        assert encoder.backend.name.startswith("onnxruntime")
    with pytest.raises(BackendError, match="no fp16 plan"):
        load(bundle)
    Encoder.load(bundle, threads=1).close()


def test_where_tensorrt_does_not_start_it_is_one_line(gpu: RecordingCudart, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bindings raise TypeError there."""
    assert main(["engine", str(bundle)]) == 0
    trt = make_tensorrt(RecordingCudart(devices=0))
    with pytest.raises(ExportError, match=r"tensorrt 10\.3\.0 does not start \(CUDA initialization failure\); it needs a GPU"):
        build_plan(bundle / "graphs/encoder.fp16.onnx", [], Options(), trt)


def test_ctrl_c_ends_a_build(gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """130, and nothing is left."""
    real = building.make_monitor

    def interrupted(*arguments: Any) -> Any:
        monitor = real(*arguments)
        signal.raise_signal(signal.SIGINT)
        return monitor

    monkeypatch.setattr(building, "make_monitor", interrupted)
    assert main(["engine", str(bundle)]) == 130
    assert built(bundle) == []
    assert list((bundle / "engines").iterdir()) == []
