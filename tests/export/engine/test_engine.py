"""`lame-export engine` builds plans, finds equal builds again, and proves them on the device."""

from __future__ import annotations

import io
import json
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_export.__main__ import main
from lame_export.engine import build as build_module
from lame_export.engine.network import Options, build_plan
from lame_export.engine.profiles import DIMENSIONS, KINDS, Widths, derive_profiles, widths_of
from lame_export.engine.progress import make_monitor
from lame_runtime import BackendError, Encoder
from lame_runtime.__main__ import main as runtime_main
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.golden import read_golden
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract.batch import assemble
from lame_runtime.errors import UsageError
from lame_runtime.progress import progress_bar
from recording_gpu import RecordingCudart, make_tensorrt
from recording_gpu.placed import DEVICE, built, install, load

GIB = 1 << 30
SMALL = {"encoder": Widths(64, 128, 2), "vision": Widths(64, 128, 2)}
# The oldest and the newest TensorRT, and TensorRT-RTX: their bindings differ in names and flags.
VERSIONS = [("tensorrt", "10.3.0"), ("tensorrt", "11.4.0"), ("tensorrt_rtx", "1.7.0")]


@pytest.mark.parametrize(("module", "version"), VERSIONS)
def test_a_build_is_proved_and_then_embeds(
    gpu: RecordingCudart,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    version: str,
) -> None:
    """A build meets the golden vectors and leaves the device's certificate beside the plans.

    Loading the bundle then selects the plans by itself and says so, and `verify` passes on them.
    """
    install(monkeypatch, gpu, version, module)
    assert main(["engine", str(bundle)]) == 0
    assert "proved on this device now" in capsys.readouterr().out
    (folder,) = built(bundle)
    device = json.loads((folder / DEVICE).read_text())
    assert device["passed"]
    assert device["device"]["capability"] == "sm86"
    with (
        Encoder.load(bundle) as encoder,
        Encoder.load(bundle, backend="onnxruntime", graph="fp16") as ours,
    ):
        assert encoder.backend.name == f"{module} {version} on Recorded GPU"
        assert "proved on this device before" in encoder.reason
        # The recorded GPU runs the graph on ONNX Runtime, so the vectors are equal up to rounding.
        assert np.abs(encoder.encode(["seven", "two"]) - ours.encode(["seven", "two"])).max() < 1e-5
    assert Bundle.open(bundle).check_all() > 0, "plans are outside the hashed set"
    assert runtime_main(["info", str(bundle)]) == 0
    assert f"{module} {version} on Recorded GPU" in capsys.readouterr().out
    assert runtime_main(["verify", str(bundle), "--backend", module.replace("_", "-")]) == 0
    assert (
        f"rows hold on this device ({module} {version} on Recorded GPU)" in capsys.readouterr().out
    )


def test_the_same_build_is_found_and_another_is_not(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graph, profile and options are in the key; an equal build is reused.

    It is built again only if its files are damaged or `--rebuild` asks for it.
    """
    calls: list[str] = []
    real = build_module.build_plan

    def counted(path: Path, *arguments: Any, **options: Any) -> tuple[bytes, bytes]:
        calls.append(path.name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(build_module, "build_plan", counted)
    for arguments in (
        [],
        ["--profile", "throughput"],
        ["--optimization-level", "1"],
        ["--graph", "fp32"],
        ["--hardware-compatible"],
    ):
        before = len(calls)
        # The second time finds the build of the first; each build has two parts.
        for _ in range(2):
            assert main(["engine", str(bundle), *arguments]) == 0
        assert len(calls) == before + 2, arguments
    assert len(built(bundle)) == 5
    assert main(["engine", str(bundle), "--rebuild"]) == 0
    # A damaged plan is no equal build: the command builds again instead of failing.
    (built(bundle)[0] / "vision.plan").write_bytes(b"short")
    assert main(["engine", str(bundle), "--graph", built(bundle)[0].name.split(".")[0]]) == 0
    # All builds are for one GPU and one TensorRT, so they share one timing cache.
    assert len(list((tmp_path / "cache/lame/engines/timing").iterdir())) == 1


@pytest.mark.parametrize(("module", "version"), VERSIONS)
def test_options_reach_the_builder(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch, module: str, version: str
) -> None:
    """The plan records flags, level and memory; TF32, which TensorRT turns on, is off."""
    install(monkeypatch, gpu, version, module)
    options = ["--workspace", "0.5", "--optimization-level", "1", "--strip-weights"]
    assert main(["engine", str(bundle), *options]) == 0
    (folder,) = built(bundle)
    for part in ("vision", "encoder"):
        plan = json.loads((folder / f"{part}.plan").read_text())
        assert plan["pools"] == {"WORKSPACE": GIB // 2}
        assert plan["level"] == 1
        # No TF32 among them.
        assert plan["flags"] == ["REFIT_IDENTICAL", "STRIP_PLAN"]


def test_the_bar_ends_where_the_build_does(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar counts all steps of all phases, including the steps that a phase left out."""
    # Not a terminal, so that the bar writes lines that nobody sees here.
    monkeypatch.setattr("sys.stderr", io.StringIO())
    trt = make_tensorrt(RecordingCudart())
    with progress_bar(total=0) as bar:
        monitor = make_monitor(trt, bar, threading.Event())
        build_plan(exported / "graphs/encoder.fp16.onnx", [], Options(), trt, monitor=monitor)
        # The recorded builder reports 2 steps of parsing and 3 of timing kernels.
        assert bar.n == bar.total == 5
        monitor.phase_start("more", "build", 4)
        monitor.step_complete("more", 0)
        assert (bar.n, bar.total) == (6, 9)
        monitor.phase_finish("more")
        assert bar.n == bar.total == 9


def test_verify_on_the_device_writes_its_certificate(
    gpu: RecordingCudart, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify` checks the graphs that have plans and writes a missing certificate again."""
    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    # As if the plans had been copied without the certificate.
    (folder / DEVICE).unlink()
    assert runtime_main(["verify", str(bundle), "--backend", "tensorrt"]) == 0
    assert "rows hold on this device (tensorrt 10.3.0 on Recorded GPU)" in capsys.readouterr().out
    assert json.loads((folder / DEVICE).read_text())["passed"]


def test_a_read_only_bundle_has_its_plans_in_the_cache(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans of a bundle that cannot be written go to the user's cache and are found there."""
    # Permissions would not do: tests may run as root, who can write everywhere.
    monkeypatch.setattr("lame_runtime.backends.tensorrt.plans.os.access", lambda *_: False)
    assert main(["engine", str(bundle)]) == 0
    assert built(bundle) == []
    assert len(list((tmp_path / "cache/lame/engines").glob("*/*/build.json"))) == 1
    load(bundle).close()


def test_plans_in_another_folder_are_found_if_it_is_named(
    gpu: RecordingCudart, bundle: Path, tmp_path: Path
) -> None:
    """`--out` writes plans to a folder of one's own, and `engines=` loads them from there."""
    assert main(["engine", str(bundle), "--out", str(tmp_path / "plans")]) == 0
    load(bundle, engines=tmp_path / "plans").close()
    with pytest.raises(BackendError, match="none was built"):
        load(bundle)


@pytest.mark.parametrize("kind", KINDS)
def test_profiles_accept_every_golden_input(exported: Path, kind: str) -> None:
    """The longest text and the largest picture have a profile, too.

    A tight memory budget makes batches smaller, and one that fits no input is an error.
    """
    contract = Contract.load(exported / "contract.json")
    preparer = Preparer.load(exported)
    roomy = derive_profiles(contract, SMALL, kind, 8 * GIB)
    for part, dimensions in DIMENSIONS.items():
        assert all(set(ranges) == set(dimensions) for ranges in roomy[part])
        assert all(
            low <= optimum <= high
            for ranges in roomy[part]
            for low, optimum, high in ranges.values()
        )
    for golden in read_golden(exported).inputs:
        batch = assemble([preparer(golden.item, golden.role)], contract)
        low, _, high = roomy["encoder"][-1]["length"]
        assert low <= batch.input_ids.shape[1] <= high
        for group in batch.groups:
            low, _, high = roomy["vision"][-1]["patches"]
            assert low <= group.patches <= high
    # 4 MB hold a few of the longest inputs, but no full batch of them.
    tight = derive_profiles(contract, SMALL, kind, 4_000_000)
    assert tight["encoder"][-1]["batch"][2] < roomy["encoder"][-1]["batch"][2]
    with pytest.raises(
        UsageError,
        match=r"an input of \d+ tokens needs 0\.00 GiB of activations, and `memory` allows 0\.00",
    ):
        derive_profiles(contract, SMALL, kind, 1000)


def test_widths_are_in_the_manifest(exported: Path) -> None:
    """The manifest has the model's own widths; a bundle without them gets those of Qwen2-VL-2B."""
    widths = widths_of(asdict(Bundle.open(exported).manifest.model))
    assert widths["encoder"].hidden == 64
    assert widths_of({})["encoder"].hidden == 1536


def test_a_failed_swap_leaves_the_old_plans(
    gpu: RecordingCudart,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_errors: Callable[[], str],
) -> None:
    """The old plans had been moved aside and come back; the error is one line."""
    assert main(["engine", str(bundle)]) == 0
    (folder,) = built(bundle)
    modified, real = (folder / "encoder.plan").stat().st_mtime_ns, Path.rename

    def rename(self: Path, target: Path) -> Path:
        # Moving the old build aside and back must work, or the test could not see it come back.
        if Path(target) == folder and ".before" not in self.name:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    read_errors()
    assert main(["engine", str(bundle), "--rebuild"]) == 2
    assert re.fullmatch(
        r"error: .*cannot be written \(No space left on device\); "
        r"choose another folder as --output\n",
        read_errors(),
    )
    assert [path.name for path in (bundle / "engines").iterdir()] == [folder.name]
    assert (folder / "encoder.plan").stat().st_mtime_ns == modified


def test_an_account_without_a_home_has_no_cache_and_no_key(
    gpu: RecordingCudart,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_errors: Callable[[], str],
) -> None:
    """A container with an unknown user is such an account.

    ONNX Runtime runs there. Building plans is refused in one line, as there is no key to sign them.
    """

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    # Built while there is a home: the plans exist, but later their key cannot be read.
    assert main(["engine", str(bundle)]) == 0
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    load(bundle).close()
    monkeypatch.delenv("XDG_STATE_HOME")
    with Encoder.load(bundle) as encoder:
        assert encoder.backend.name.startswith("onnxruntime")
        assert "no home for the key that signs plans; set XDG_STATE_HOME" in encoder.reason
    read_errors()
    assert main(["engine", str(bundle), "--rebuild"]) == 2
    assert (
        read_errors()
        == "error: this account has no home for the key that signs plans; set XDG_STATE_HOME\n"
    )
    monkeypatch.setattr("lame_runtime.backends.tensorrt.plans.os.access", lambda *_: False)
    assert main(["engine", str(bundle), "--rebuild"]) == 2
    assert "set XDG_CACHE_HOME, or choose a folder with --output" in read_errors()


def test_ctrl_c_ends_a_build(
    gpu: RecordingCudart, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is 130, and no file is left."""
    real = build_module.make_monitor

    def interrupted(*arguments: Any) -> Any:
        monitor = real(*arguments)
        # Ctrl-C as the build begins, when the handler is in place.
        signal.raise_signal(signal.SIGINT)
        return monitor

    monkeypatch.setattr(build_module, "make_monitor", interrupted)
    assert main(["engine", str(bundle)]) == 130
    assert built(bundle) == []
    assert list((bundle / "engines").iterdir()) == []


def test_the_timing_cache_is_no_reason_to_fail(
    gpu: RecordingCudart,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A timing cache that cannot be written is a warning; the plans are built and proved."""
    # A file in the way of the folder stops root as well.
    (tmp_path / "cache/lame/engines").mkdir(parents=True)
    (tmp_path / "cache/lame/engines/timing").write_text("a file where the folder belongs")
    assert main(["engine", str(bundle)]) == 0
    assert "the timing cache was not written" in capsys.readouterr().err
