"""Precision fallbacks: wrong plans are refused, and levels are built until one is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lame_export.__main__ import main
from lame_export.engine import build as build_module
from lame_export.engine import build_files, fallback_levels
from lame_export.engine.network import Options, build_plan
from lame_runtime import BackendError, Encoder
from recording_gpu import GpuMisuseError, RecordingCudart, make_tensorrt
from recording_gpu.placed import DEVICE, built, load

VERSIONS = [("tensorrt", "10.3.0"), ("tensorrt", "11.4.0"), ("tensorrt_rtx", "1.7.0")]


def spoil(monkeypatch: pytest.MonkeyPatch, right_from: int) -> None:
    """Makes plans of all levels below `right_from` compute wrong numbers."""
    levels: list[int] = []
    real_edit, real_build = build_module.edit_network, build_module.build_plan

    def edit_network(level: int, trt: Any, network: Any) -> None:
        levels.append(level)
        real_edit(level, trt, network)

    # The recorded GPU rolls the results of plans that are marked as wrong.
    def build_spoiled(*arguments: Any, **options: Any) -> tuple[bytes, bytes]:
        plan, cache = real_build(*arguments, **options)
        return json.dumps(json.loads(plan) | {"wrong": levels[-1] < right_from}).encode(), cache

    monkeypatch.setattr(build_module, "edit_network", edit_network)
    monkeypatch.setattr(build_module, "build_plan", build_spoiled)


@pytest.mark.parametrize("graph", ["fp16", "int8"])
@pytest.mark.parametrize(("module", "version"), VERSIONS)
def test_each_level_widens_the_network_of_every_version(
    exported: Path, graph: str, module: str, version: str
) -> None:
    """Each level adds casts, and all types still agree.

    A level that leaves a layer with inputs of two types is refused, as by a strongly typed network.
    """
    trt = make_tensorrt(gpu := RecordingCudart(), version, module)
    casts: dict[str, list[int]] = {"vision": [], "encoder": []}
    for part, counts in casts.items():
        # Level 3 is another graph, not an edited one.
        for level in range(3):
            plan, _ = build_plan(
                exported / f"graphs/{part}.{graph}.onnx",
                [],
                Options(),
                trt,
                edit=partial(fallback_levels.edit_network, level),
            )
            counts.append(json.loads(plan)["casts"])
        assert counts[0] == 0
        assert counts == sorted(set(counts))
    gpu.assert_released()
    # The control: without its readers moved to the half output, a layer mixes two types.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fallback_levels, "_readers", lambda network, value: [])
        with pytest.raises(GpuMisuseError, match="its inputs are of two types"):
            build_plan(
                exported / f"graphs/encoder.{graph}.onnx",
                [],
                Options(),
                trt,
                edit=partial(fallback_levels.edit_network, 1),
            )


@pytest.mark.parametrize(
    ("right_from", "name"),
    [(0, "as exported"), (1, "attention unfused"), (2, "more in FP32"), (3, "FP32")],
)
def test_wrong_numbers_are_refused_and_fallbacks_are_built_until_one_is_right(
    gpu: RecordingCudart,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    right_from: int,
    name: str,
) -> None:
    """The refusal names the figure, where it was measured, and the fallbacks.

    `--fallback` builds as many levels as needed; the one that runs is recorded and named.
    """
    spoil(monkeypatch, right_from)
    if right_from:
        with pytest.raises(BackendError, match="none was built"):
            load(bundle)
        assert main(["engine", str(bundle)]) == 1
        error = capsys.readouterr().err
        assert "not to be trusted on this device: graph vs PyTorch" in error
        assert "--fallback" in error
        with pytest.raises(
            BackendError, match=r"not to be trusted .*min_cosine -?0\.\d+ \(>= 0\.999\)"
        ):
            load(bundle)
        with Encoder.load(bundle) as encoder:
            assert encoder.backend.name.startswith("onnxruntime")
            assert "TensorRT plans are there but not used" in encoder.reason
    assert main(["engine", str(bundle), "--fallback", "--rebuild"]) == 0
    (folder,) = built(bundle)
    assert json.loads((folder / "build.json").read_text())["level"] == name
    device = json.loads((folder / DEVICE).read_text())
    assert (device["level"], device["built_graph"]) == (name, "fp32" if name == "FP32" else "fp16")
    # The names of the levels are part of the file format and of what users read.
    notes = {"as exported": "", "FP32": "fallback: FP32, graph fp32"}
    note = notes.get(name, f"fallback: {name}")
    with load(bundle) as encoder, Encoder.load(bundle, backend="onnxruntime", graph="fp32") as ours:
        assert note in encoder.reason
        assert encoder.backend.name.endswith(f" ({note})" if note else "Recorded GPU")
        assert float((encoder.encode("seven") * ours.encode("seven")).sum()) > 0.999


def test_if_no_level_is_right_nothing_is_left(
    gpu: RecordingCudart,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_errors: Callable[[], str],
) -> None:
    """The last level's error is raised, every level is named, and no plans stay to be loaded."""
    # No level reaches 99, so all are wrong.
    spoil(monkeypatch, 99)
    assert main(["engine", str(bundle), "--fallback"]) == 1
    assert built(bundle) == []
    *warnings, error = read_errors().splitlines()
    assert [line.partition("): ")[0] for line in warnings] == [
        f"warning: fallback level {level} ({name}"
        for level, name in enumerate(fallback_levels.FALLBACK_LEVELS)
    ]
    assert error.startswith("error: ")


def test_wrong_plans_that_cannot_be_removed_are_named(
    gpu: RecordingCudart,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error names their folder, since they must not be used."""
    spoil(monkeypatch, 99)
    real = shutil.rmtree

    def refuse(folder: Any, **options: Any) -> None:
        # Cleaning up passes `ignore_errors`; the removal of wrong plans does not.
        if not options:
            raise PermissionError(13, "Permission denied")
        real(folder, **options)

    monkeypatch.setattr(build_files.shutil, "rmtree", refuse)
    assert main(["engine", str(bundle), "--fallback"]) == 2
    assert (
        "cannot be removed (Permission denied); remove it, as its plans are wrong here"
        in capsys.readouterr().err
    )
