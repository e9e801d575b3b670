"""`lame-export engine` answers wrong use with one line that names the value and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from lame_export.__main__ import main
from lame_export.engine.network import Options, build_plan
from lame_runtime.backends.tensorrt.module import load_tensorrt
from lame_runtime.errors import ExportError, UsageError
from recording_gpu import RecordingCudart, make_tensorrt
from recording_gpu.placed import built, install


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no list of profiles named 'vision'"),
        (
            '{"vision": [{"patches": [1, 2, 3]}], "encoder": []}',
            "names the dimensions pictures, depth, patches, windows",
        ),
        (
            '{"vision": [{"pictures": [1, 1, 1], "patches": [4, 2, 8]}]}',
            "give minimum, optimum and maximum in ascending order",
        ),
        (
            '{"vision": [{"pictures": [1, 1, 1], "patches": [4, 8]}]}',
            "vision.patches is [4, 8]; give three positive numbers",
        ),
    ],
)
def test_a_bad_profile_file_is_one_line(
    gpu: RecordingCudart,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    message: str,
) -> None:
    """The line names the file and what is wrong with it."""
    (tmp_path / "p.json").write_text(content)
    assert main(["engine", str(bundle), "--profile", str(tmp_path / "p.json")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(tmp_path / "p.json") in error
    assert error.count("\n") == 1
    assert built(bundle) == []


@pytest.mark.parametrize(("capability", "runs"), [((9, 0), False), ((8, 6), True), ((12, 3), True)])
def test_a_gpu_that_tensorrt_rtx_does_not_run_on_is_refused_before_the_build(
    gpu: RecordingCudart,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_errors: Callable[[], str],
    capability: tuple[int, int],
    runs: bool,
) -> None:
    """On an H200, TensorRT-RTX builds plans and then refuses to load them.

    GPUs that it can target, and all newer ones, are accepted.
    """
    gpu.name, gpu.capability = "NVIDIA H200", capability
    install(monkeypatch, gpu, "1.7.0", "tensorrt_rtx")
    assert main(["engine", str(bundle)]) == (0 if runs else 2)
    # The library names the argument, and the command line puts its flag in place of it.
    refusal = re.compile(
        r"does not run on NVIDIA H200 \(sm90\), only on sm86, sm89, sm120 and newer; "
        r"use TensorRT \((`module`|--module) tensorrt\)"
    )
    assert runs or refusal.search(read_errors())
    assert bool(built(bundle)) == runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--target", "sm86"],
            r"(`target`|--target) is 'sm86', but tensorrt builds only for the GPU in this machine",
        ),
        # The recorded installation has `tensorrt` alone.
        (["--module", "tensorrt_rtx"], "no TensorRT here"),
        (["--memory", "0"], "--memory is 0: give GiB"),
        (["--profile", "fast"], "fast: cannot be read"),
        (["--graph", "int8-cpu"], "int8-cpu is for ONNX Runtime"),
    ],
)
def test_wrong_use_is_one_line(
    gpu: RecordingCudart,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Nothing is built."""
    # A missing TensorRT is a backend that cannot run, which is exit code 1.
    assert main(["engine", str(bundle), *arguments]) == (1 if "--module" in arguments else 2)
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert built(bundle) == []


@pytest.mark.parametrize("target", ["none", "current", "sm1", "__doc__"])
def test_only_real_gpus_are_targets(
    exported: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real module's NONE and CURRENT are no targets; a target that it refuses is an error."""
    with pytest.raises(
        UsageError, match=f"unknown `target` '{target}': tensorrt_rtx knows sm.*, sm86"
    ):
        build_plan(
            exported / "graphs/encoder.fp16.onnx",
            [],
            Options(target=target),
            load_tensorrt("tensorrt_rtx"),
        )
    trt = make_tensorrt(RecordingCudart(), "1.7.0", "tensorrt_rtx")
    monkeypatch.setattr(
        trt.IBuilderConfig, "set_compute_capability", lambda self, compute_capability, index: False
    )
    with pytest.raises(
        UsageError, match=r"`target` is 'sm86', which tensorrt_rtx 1\.7\.0 refuses; choose another"
    ):
        build_plan(exported / "graphs/encoder.fp16.onnx", [], Options(target="sm86"), trt)


def test_an_option_that_the_version_lacks_is_named(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the option and what the module lacks."""
    trt = make_tensorrt(RecordingCudart(), "10.3.0")
    # All tested versions have it, so the module loses it here.
    monkeypatch.delattr(trt, "HardwareCompatibilityLevel")
    with pytest.raises(
        UsageError,
        match=r"`hardware_compatible` needs HardwareCompatibilityLevel\.AMPERE_PLUS, "
        r"which tensorrt 10\.3\.0 does not have; leave it out",
    ):
        build_plan(
            exported / "graphs/encoder.fp16.onnx", [], Options(hardware_compatible=True), trt
        )


def test_a_tensorrt_that_does_not_start_is_one_line(gpu: RecordingCudart, bundle: Path) -> None:
    """The bindings raise `TypeError` in that case; the message has TensorRT's reason instead."""
    assert main(["engine", str(bundle)]) == 0
    # The real bindings without a GPU: the factory gives a null pointer, the reason is logged.
    trt = make_tensorrt(RecordingCudart(devices=0))
    with pytest.raises(
        ExportError,
        match=r"tensorrt 10\.3\.0 does not start \(CUDA initialization failure\); it needs a GPU",
    ):
        build_plan(bundle / "graphs/encoder.fp16.onnx", [], Options(), trt)
