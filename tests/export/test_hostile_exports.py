"""Bundles, profiles and arguments of any content end in one line of our own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from lame_export.cli.main import main
from lame_export.engine import profiles
from lame_export.engine.build_files import read_timing_cache
from lame_export.engine.profiles import read_profiles, widths_of
from lame_export.lint import foreign_graphs
from lame_export.parity import verify as verification
from lame_export.parity.verify import verify
from lame_export.plan import export
from lame_export.state import ExportOptions, ExportState
from lame_runtime.contract.rules import Contract
from lame_runtime.errors import BundleError, StorageError, UsageError
from lame_training.folder_lock import reserved_folder

from lame_export import plan

Damage = Callable[[Path], object]


def rehash(bundle: Path, edit: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Computes the hashes of a changed bundle anew, as anyone can."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    manifest["files"] = {
        name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in manifest["files"]
    }
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    path.write_text(
        json.dumps({**manifest, "sha256": hashlib.sha256(canonical.encode()).hexdigest()})
    )


def graph(change: Callable[[ir.Model], object]) -> Damage:
    """Changes the FP32 graph of the vision tower."""

    def damage(bundle: Path) -> None:
        path = bundle / "graphs/vision.fp32.onnx"
        model = ir.load(path)
        change(model)
        ir.save(model, path, external_data=f"{path.name}.data")

    return damage


def rename_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "other"


def drop_output(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "MatMul")
    node.op_type = "Evil"


def garbage(bundle: Path) -> None:
    (bundle / "graphs/vision.fp32.onnx").write_bytes(b"\xff" * 100)


DAMAGES: dict[str, Damage] = {
    "an output of another name": graph(rename_output),
    "an unknown operator": graph(drop_output),
    "no graph": garbage,
    "no data": lambda bundle: (bundle / "graphs/vision.fp32.onnx.data").write_bytes(b""),
}


@pytest.fixture
def damaged(exported: Path, tmp_path: Path) -> Path:
    """Returns a copy of the bundle with its FP32 graph alone, which a test may damage."""
    bundle = tmp_path / "bundle"
    kept = ("vision.fp32.onnx", "encoder.fp32.onnx")
    shutil.copytree(
        exported,
        bundle,
        ignore=lambda folder, names: [
            name
            for name in names
            if Path(folder).name == "graphs" and not name.removesuffix(".data").endswith(kept)
        ],
    )

    def keep(manifest: dict[str, Any]) -> None:
        manifest["graphs"] = {"fp32": manifest["graphs"]["fp32"]}
        manifest["files"] = {n: h for n, h in manifest["files"].items() if (bundle / n).is_file()}

    rehash(bundle, keep)
    return bundle


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("command", ["verify", "bisect"])
def test_a_damaged_graph_with_right_hashes_ends_in_one_line(
    name: str,
    command: str,
    damaged: Path,
    checkpoint: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither ONNX nor ONNX Runtime has the last word."""
    DAMAGES[name](damaged)
    rehash(damaged)
    arguments = {
        "verify": ["verify", str(damaged), "--against", str(checkpoint)],
        "bisect": ["bisect", str(damaged), str(checkpoint), "--graph", "fp32", "--inputs", "1"],
    }
    code = main(arguments[command])
    output = capfd.readouterr()
    assert "Traceback" not in output.err
    if (command, name) == ("bisect", "an output of another name"):
        # a bisection reads values by the modules that they belong to, and needs no name
        assert code == 0
    else:
        assert code in (1, 2)
        assert "error: " in output.err or "FAILED" in output.out


def test_a_manifest_cannot_have_other_graphs_verified_than_run(
    damaged: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control leaves the check out: every row holds, while another file would run."""
    for suffix in ("", ".data"):
        shutil.copy(
            damaged / f"graphs/vision.fp32.onnx{suffix}", damaged / f"graphs/other.onnx{suffix}"
        )
    # a graph refers to its data by name
    path = damaged / "graphs/other.onnx"
    model = ir.load(damaged / "graphs/vision.fp32.onnx")
    ir.save(model, path, external_data="other.onnx.data")

    def other(manifest: dict[str, Any]) -> None:
        manifest["graphs"]["fp32"]["vision"] = "graphs/other.onnx"
        manifest["files"] |= dict.fromkeys(["graphs/other.onnx", "graphs/other.onnx.data"], "")

    rehash(damaged, other)
    with pytest.raises(BundleError, match=r"names other\.onnx as vision of fp32"):
        verify(damaged, checkpoint)
    monkeypatch.setattr(verification, "check_graphs", lambda _: None)
    monkeypatch.setattr(verification, "PASSES", ())
    assert all(row.passed for row in verify(damaged, checkpoint))


def test_errors_of_other_libraries_are_translated(tmp_path: Path) -> None:
    """Our own pass unchanged, and so does a memory that is full."""
    with (
        pytest.raises(BundleError, match=r"cannot be used \(KeyError: 'features'\)"),
        foreign_graphs.translated(tmp_path),
    ):
        raise KeyError("features")
    for error in (UsageError("own"), MemoryError()):
        with pytest.raises(type(error)), foreign_graphs.translated(tmp_path):
            raise error


PROFILES: dict[str, str] = {
    "nesting": "[" * 100_000,
    "NaN": '{"vision": NaN}',
    "digits": '{"vision": ' + "9" * 5000 + "}",
    "no list": '{"vision": {}}',
    "too many": json.dumps({"vision": [{}] * 1000}),
    "a list as profile": '{"vision": [[]]}',
    "a huge dimension": json.dumps(
        {"vision": [{"pictures": [1, 1, 10**12], "patches": [4, 4, 4]}]}
    ),
    "no numbers": json.dumps({"vision": [{"pictures": ["a" * 9999] * 3, "patches": [4, 4, 4]}]}),
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("name", PROFILES)
def test_hostile_profiles_are_refused(name: str, tmp_path: Path, exported: Path) -> None:
    """The message is one short line, however long the value is."""
    path = tmp_path / "profiles.json"
    path.write_text(PROFILES[name], encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UsageError) as refusal:
        read_profiles(path, Contract.load(exported / "contract.json"))
    assert len(str(refusal.value)) < 400
    assert str(refusal.value).isprintable()


def test_profiles_and_timings_are_regular_files(tmp_path: Path, exported: Path) -> None:
    """A pipe would be waited for forever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="is a pipe"):
        read_profiles(tmp_path / "pipe", Contract.load(exported / "contract.json"))
    assert read_timing_cache(tmp_path / "pipe") == b""
    assert read_timing_cache(tmp_path / "none") == b""
    assert read_timing_cache(None) is None


def test_widths_beyond_any_model_are_refused() -> None:
    """The control: a width of zero would divide by zero when batches are computed."""
    zero = {"widths": {"vision": {"hidden": 0, "mlp": 0, "heads": 0}}}
    with pytest.raises(BundleError, match=r"model\.widths\.vision"):
        widths_of(zero)
    empty = profiles.Widths(0, 0, 0)
    with pytest.raises(ZeroDivisionError):
        profiles._largest_batch(empty.activation_bytes(4), 1, 1, "")  # noqa: SLF001


ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"checkpoint": 5},
    {"bundle": b"x"},
    {"data": "a\0b"},
    {"graphs": "fp32"},
    {"graphs": None},
    {"graphs": [3]},
    {"graphs": ["fp32", "\x1b[31m" * 100]},
    {"graphs": []},
    {"per_modality": "3"},
    {"per_modality": True},
    {"per_modality": 0},
    {"calibration": 2.5},
    {"strengths": 0.5},
    {"strengths": [float("nan")]},
    {"strengths": ["0"]},
    {"strengths": []},
    {"memory": "4"},
    {"memory": 0},
    {"memory": float("nan")},
)


@pytest.mark.parametrize("number", range(len(ARGUMENTS)))
def test_wrong_arguments_are_named_before_any_work(number: int, tmp_path: Path) -> None:
    """NumPy's numbers count; everything else is a `UsageError` at once."""
    given = {"checkpoint": tmp_path / "no", "bundle": tmp_path / "b", "data": tmp_path}
    (name,) = ARGUMENTS[number]
    with pytest.raises(UsageError, match=name.removesuffix("s")):
        export(**{**given, **ARGUMENTS[number]})
    with pytest.raises(BundleError):
        export(**given, per_modality=np.int64(2), strengths=np.array([0.5]))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_link_in_the_place_of_the_bundle_is_refused_at_once(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """Even one that leads nowhere: the export would fail at its end."""
    (tmp_path / "bundle").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="already exists"):
        export(checkpoint, tmp_path / "bundle", data)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_second_export_into_one_folder_is_refused_at_once(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """It would do all the work, and fail when it gives the bundle its name."""
    passes: list[tuple[str, object]] = []
    with (
        reserved_folder(tmp_path / "new/bundle", "export", "bundle"),
        pytest.raises(StorageError, match=r"bundle: another export is writing to it \(process"),
    ):
        export(checkpoint, tmp_path / "new/bundle", data, on_pass=lambda *seen: passes.append(seen))
    assert not passes
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_appears_meanwhile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control, without the lock: the message names the bundle, not a hidden folder."""

    def other_export(*_: object) -> None:
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle/manifest.json").touch()

    monkeypatch.setattr(plan, "run_passes", other_export)
    monkeypatch.setattr(plan, "reserved_folder", lambda *_: nullcontext())
    request = ExportState(tmp_path, tmp_path, tmp_path / "bundle", ExportOptions())
    with pytest.raises(StorageError, match="bundle: another process made it meanwhile; remove it"):
        plan.run_export(request, ())
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["golden", "trace", "parity"])
def test_a_killed_export_leaves_no_bundle(
    name: str, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """A kill in the middle of a pass leaves a hidden folder and the lock's file alone."""
    command = [sys.executable, "-m", "lame_export", "bundle", str(checkpoint), "bundle"]
    options = ["--data", str(data), "--graphs", "fp32", "--golden", "1", "--calibration", "1"]
    with subprocess.Popen(
        [*command, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert any(line == f"pass {name}\n" for line in process.stderr)
        process.kill()
    assert {path.name[:8] for path in tmp_path.iterdir()} == {".bundle."}
    # the lock has ended with its process
    with reserved_folder(tmp_path / "bundle", "export", "bundle"):
        pass
