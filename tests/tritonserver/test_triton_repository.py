"""Tests `lame-export triton`: the configuration that it writes, and what it refuses to write."""

from __future__ import annotations

import errno
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton_server
from changed_bundle import EXAMPLE, changed_bundle
from lame_export.cli.main import main
from lame_export.triton import repository
from lame_runtime.bundle.bundle import Bundle


@pytest.fixture(scope="session")
def parse() -> Any:
    """Returns a function that parses a `config.pbtxt` with tritonclient's protobufs."""
    from google.protobuf import text_format

    model_config = triton_server.model_config()
    return lambda text: text_format.Parse(text, model_config())


def write(folder: Path, *arguments: str) -> Path:
    """Writes the example bundle as `folder/models/tiny` and returns that folder."""
    assert main(["triton", str(EXAMPLE), str(folder / "models"), "--name", "tiny", *arguments]) == 0
    return folder / "models/tiny"


def test_the_configuration_is_one_of_tritons(model_folder: Path, parse: Any) -> None:
    """Every field exists and has the value that the documentation of the command promises."""
    config = parse((model_folder / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "python", 32)
    assert {tensor.name for tensor in config.input if tensor.optional} == {
        "text",
        "image",
        "input_json",
        "modality",
        "input_type",
    }
    assert {tuple(tensor.dims) for tensor in config.input} == {(1,)}
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [("embeddings", [64])]
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (24, 30_000_000)
    assert policy.timeout_action == policy.REJECT
    (group,) = config.instance_group
    assert (group.count, group.kind, list(group.gpus)) == (1, group.KIND_CPU, [])


def test_a_misspelled_field_is_seen(model_folder: Path, parse: Any) -> None:
    """The parser refuses a field that Triton does not have, so the test above sees one."""
    from google.protobuf import text_format

    text = (model_folder / "config.pbtxt").read_text()
    with pytest.raises(text_format.ParseError, match="max_queue_sizes"):
        parse(text.replace("max_queue_size:", "max_queue_sizes:"))


def test_the_warm_up_is_one_golden_input_of_each_modality(
    model_folder: Path, parse: Any, golden_items: list[tuple[dict[str, Any], str]]
) -> None:
    """Files hold one BYTES element, whose value is the golden input as a client would send it."""
    config = parse((model_folder / "config.pbtxt").read_text())
    names = [sample.name for sample in config.model_warmup]
    assert names == ["image", "image+text", "text", "images+text", "video+text"]
    for sample in config.model_warmup:
        values = {}
        for tensor, source in sample.inputs.items():
            content = (model_folder / "warmup" / source.input_data_file).read_bytes()
            (length,) = struct.unpack("<I", content[:4])
            assert length == len(content) - 4
            values[tensor] = content[4:].decode()
        assert (json.loads(values["input_json"]), values["input_type"]) in golden_items


def test_options_reach_the_configuration(tmp_path: Path, parse: Any) -> None:
    """Device, backend, graph, limits and the bundle's place are what the flags say."""
    flags = ["--kind", "gpu", "--backend", "tensorrt", "--graph", "fp32", "--max-batch-size", "8"]
    flags += ["--timeout", "0.5", "--allow-video", "--bundle-path", '/srv/a "b" ü']
    model = write(tmp_path, *flags)
    config = parse((model / "config.pbtxt").read_text(encoding="utf-8"))
    settings = {key: value.string_value for key, value in config.parameters.items()}
    assert settings == {
        "bundle": '/srv/a "b" ü',
        "backend": "tensorrt",
        "graph": "fp32",
        "video": "true",
    }
    (group,) = config.instance_group
    assert (group.kind, list(group.gpus)) == (group.KIND_GPU, [0])
    assert config.max_batch_size == 8
    policy = config.dynamic_batching.default_queue_policy
    assert policy.default_timeout_microseconds == 500_000
    assert sorted(path.name for path in (model / "1").iterdir()) == ["model.py"]


def test_bare_graphs_are_models_of_their_own(tmp_path: Path, parse: Any) -> None:
    """Tensors are those that ONNX Runtime sees in the copied file, which gives the same vectors."""
    import onnxruntime

    write(tmp_path, "--graph", "fp32", "--bare-graphs")
    types = {
        "tensor(float)": "TYPE_FP32",
        "tensor(uint8)": "TYPE_UINT8",
        "tensor(int32)": "TYPE_INT32",
        "tensor(int64)": "TYPE_INT64",
        "tensor(bool)": "TYPE_BOOL",
    }
    for part in ("vision", "encoder"):
        model = tmp_path / "models" / f"tiny-{part}"
        config = parse((model / "config.pbtxt").read_text())
        assert (config.name, config.backend, config.max_batch_size) == (
            f"tiny-{part}",
            "onnxruntime",
            0,
        )
        session = onnxruntime.InferenceSession(model / "1/model.onnx")
        for tensors, real in (
            (config.input, session.get_inputs()),
            (config.output, session.get_outputs()),
        ):
            kinds = type(tensors[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type
            written = {
                tensor.name: (kinds.values_by_number[tensor.data_type].name, list(tensor.dims))
                for tensor in tensors
            }
            assert written == {
                value.name: (
                    types[value.type],
                    [size if isinstance(size, int) else -1 for size in value.shape],
                )
                for value in real
            }
        (graph,) = [path for path in (EXAMPLE / "graphs").glob(f"{part}.fp32.onnx")]
        assert (model / "1/model.onnx").read_bytes() == graph.read_bytes()


def test_a_taken_name_of_a_bare_graph_leaves_nothing(tmp_path: Path, capsys: Any) -> None:
    """All names are looked at before anything is written; a graph has to be chosen."""
    models = tmp_path / "models"
    (models / "tiny-encoder").mkdir(parents=True)
    arguments = ["triton", str(EXAMPLE), str(models), "--name", "tiny", "--bare-graphs"]
    assert main(arguments) == 2
    assert "--bare-graphs needs --graph" in capsys.readouterr().err.replace("`", "")
    assert main([*arguments, "--graph", "fp32"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert [path.name for path in models.iterdir()] == ["tiny-encoder"]


def test_the_copy_of_the_bundle_is_the_bundle_alone(tmp_path: Path) -> None:
    """Listed files are equal; plans and what others left beside them stay where they are."""
    bundle = Path(shutil.copytree(EXAMPLE, tmp_path / "bundle"))
    (bundle / "README.md").write_text("left by a hub")
    (bundle / "engines/fp16-0").mkdir(parents=True)
    (bundle / "engines/fp16-0/build.json").write_text("{}")
    assert main(["triton", str(bundle), str(tmp_path / "models")]) == 0
    copy = Bundle.open(tmp_path / "models/bundle/1/bundle")
    assert copy.check_all() == len(copy.manifest.files)
    assert copy.leftovers() == []


def test_other_models_of_a_repository_stay(tmp_path: Path, capsys: Any) -> None:
    """A second model is added; one of the same name is refused and unchanged."""
    model = write(tmp_path)
    before = (model / "config.pbtxt").read_bytes()
    arguments = ["triton", str(EXAMPLE), str(tmp_path / "models"), "--name"]
    assert main([*arguments, "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["name"] == "other"
    assert main([*arguments, "tiny", "--max-queue", "1"]) == 2
    assert "already exists; remove it or choose another folder" in capsys.readouterr().err
    assert (model / "config.pbtxt").read_bytes() == before
    assert sorted(path.name for path in model.parent.iterdir()) == ["other", "tiny"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--name", "../models"], "--name is ../models: use letters"),
        (["--name", ""], "--name is : use letters"),
        (["--graph", "int4"], "--graph is int4, which"),
        (["--kind", "gpu", "--backend", "onnxruntime"], "does not run on --kind gpu"),
        (["--backend", "tensorrt"], "does not run on --kind cpu"),
        (["--kind", "gpu", "--threads", "2"], "--threads is for --kind cpu"),
        (["--threads", "0"], "--threads is 0"),
        (["--max-batch-size", "0"], "--max-batch-size is 0"),
        (["--max-queue", "0"], "--max-queue is 0"),
        (["--timeout", "nan"], "--timeout is nan"),
        (["--bundle-path", "bundle"], "--bundle-path is bundle: give an absolute path"),
        (["--bundle-path", "/srv/a\nb"], "use a path without control characters"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(
    flags: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    """The exit code is 2, the line names the flag, and no folder appears."""
    assert main(["triton", str(EXAMPLE), str(tmp_path / "models"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error.replace("'", "").replace("`", "")
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.rglob("config.pbtxt"))


def test_a_damaged_bundle_is_refused(tmp_path: Path, capsys: Any) -> None:
    """A changed weight, a missing manifest, and a repository inside of the bundle."""
    bundle = changed_bundle(tmp_path / "bundle")
    assert main(["triton", str(bundle), str(bundle / "models")]) == 2
    assert "is inside the bundle" in capsys.readouterr().err
    path = bundle / "graphs/encoder.fp32.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    assert main(["triton", str(bundle), str(tmp_path / "models")]) == 2
    assert "wrong sha256" in capsys.readouterr().err
    (bundle / "manifest.json").unlink()
    assert main(["triton", str(bundle), str(tmp_path / "models")]) == 2
    assert "has no manifest.json" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The folder that is being written goes away again."""

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(repository.shutil, "copyfileobj", fail)
    assert main(["triton", str(EXAMPLE), str(tmp_path / "models")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert list((tmp_path / "models").iterdir()) == []


def test_writing_needs_the_runtime_alone() -> None:
    """A machine that serves has neither PyTorch nor ONNX."""
    code = (
        "import sys, lame_export.triton.repository\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'torch', 'onnx', 'onnxruntime', 'lame_training', 'tritonclient'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
