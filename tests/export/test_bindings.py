"""Checks all TensorRT names and arguments in use, ours and the recorder's, on the real bindings.

The bindings of 10.3, 10.16 and 11.4 are real wheels of 1 MB. TensorRT's own libraries need a GPU,
so the bindings are imported over libraries that define its nine C symbols and do nothing.
TensorRT-RTX is imported as it is.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lame_export.engine import features
from recording_gpu import RecordingCudart, make_tensorrt
from recording_gpu import tensorrt as recorder

ROOT = Path(__file__).parents[2]
BINDINGS = Path(sys.prefix) / "bindings"
# The oldest and the newest version that this package supports, and one between.
VERSIONS = {
    "tensorrt 10.3": "10.3.0",
    "tensorrt 10.16": "10.16.1.11",
    "tensorrt 11.4": "11.4.0.106",
    "tensorrt_rtx 1.7": "",
}
# Without these, the loader refuses the bindings.
SYMBOLS = (
    *(
        f"create{name}_INTERNAL"
        for name in (
            "InferBuilder",
            "InferRuntime",
            "InferRefitter",
            "NvOnnxParser",
            "NvOnnxParserRefitter",
        )
    ),
    *(
        "getBuilderPluginRegistry",
        "getPluginRegistry",
        "getNvOnnxParserVersion",
        "initLibNvInferPlugins",
    ),
)
# Folders whose code calls TensorRT.
USERS = (
    "lame_export/lame_export/engine",
    "lame_export/lame_export/bisect",
    "runtime/lame_runtime/backends/tensorrt",
)
# Runs in a process of its own, because one process can import one version of the bindings only.
SURFACE = """
import importlib, inspect, json, sys
module = importlib.import_module(sys.argv[1])
classes = {}
for name in dir(module):
    value = getattr(module, name)
    if inspect.isclass(value):
        members = {member: getattr(value, member) for member in dir(value)}
        classes[name] = {
            member: str(getattr(value, "__doc__", "") or "") for member, value in members.items()
        }
print(json.dumps({"version": module.__version__, "classes": classes}))
"""
ATTRIBUTES = {
    "IBuilderConfig": (
        "builder_optimization_level",
        "hardware_compatibility_level",
        "progress_monitor",
    ),
    "Runtime": ("engine_host_code_allowed",),
    "ITensor": ("name", "shape", "dtype", "get_dimension_name"),
    "ILayer": ("type", "name", "num_inputs", "num_outputs", "get_input", "get_output", "set_input"),
    "INetworkDefinition": ("add_cast", "mark_output", "num_layers", "get_layer"),
    "LayerType": ("SOFTMAX", "MATRIX_MULTIPLY", "REDUCE", "NORMALIZATION", "CAST"),
    "DataType": ("FLOAT", "HALF"),
    "ISoftMaxLayer": ("get_input", "set_input", "get_output"),
    "ICastLayer": ("get_output", "to_type"),
}
"""Members that are set or read on instances, which a search for `trt.` does not see."""


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of libraries that satisfy the loader, one subfolder per major version."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    root = tmp_path_factory.mktemp("stubs")
    (root / "stub.c").write_text(
        "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS)
    )
    for major in ("10", "11"):
        (root / major).mkdir()
        for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            library = f"lib{name}.so.{major}"
            options = [
                "-shared",
                "-fPIC",
                f"-Wl,-soname,{library}",
                "-o",
                str(root / major / library),
            ]
            subprocess.run([compiler, *options, str(root / "stub.c")], check=True)
    return root


@pytest.fixture(scope="session", params=VERSIONS)
def real(request: pytest.FixtureRequest, stubs: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """A version's name and its classes: the documentation of every member, by class and name."""
    version = VERSIONS[request.param]
    environment = dict(os.environ)
    if version:
        if not (BINDINGS / version).is_dir():
            pytest.skip(
                f"the bindings of {version} are not in {BINDINGS}; make test puts them there"
            )
        environment |= {
            "PYTHONPATH": str(BINDINGS / version),
            "LD_LIBRARY_PATH": str(stubs / version.split(".")[0]),
        }
    module = "tensorrt_bindings" if version else "tensorrt_rtx"
    output = subprocess.run(
        [sys.executable, "-c", SURFACE, module],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    surface = json.loads(output)
    assert surface["version"].startswith(version or "1.7")
    return request.param, surface["classes"]


def overloads(member: str, documentation: str) -> list[list[str]]:
    """Returns the argument names of each signature that pybind documents, without `self`."""
    lines = re.findall(
        rf"^(?:\d+\. )?{re.escape(member)}\((.*)\) ->", documentation, flags=re.MULTILINE
    )
    return [[name for name in re.findall(r"(\w+): ", line) if name != "self"] for line in lines]


def test_the_table_says_what_each_version_lacks(
    real: tuple[str, dict[str, dict[str, str]]],
) -> None:
    """The table of missing names has exactly those that the real bindings do not have."""
    version, classes = real

    def exists(name: str) -> bool:
        owner, _, member = name.partition(".")
        return owner in classes and (not member or member in classes[owner])

    missing = {name for name in features.USED_NAMES if not exists(name)}
    assert missing == features.MISSING_NAMES[version]


def dotted_name(node: ast.AST) -> list[str]:
    """Returns the parts of a dotted name in source code; an empty list for anything else."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    return [node.id, *attributes] if isinstance(node, ast.Name) else []


def used_names() -> dict[str, set[str]]:
    """Returns the names behind `trt.` or `self._trt.` in our code, each with the files it is in."""
    files: dict[str, set[str]] = {}
    for folder in USERS:
        for path in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = dotted_name(node)
                if names[:2] == ["self", "_trt"]:
                    names = names[1:]
                # `trt.__name__` and `trt.__version__` belong to every module.
                if len(names) > 1 and names[0] in ("trt", "_trt") and names[1][:2] != "__":
                    files.setdefault(".".join(names[1:3]), set()).add(f"{folder}/{path.name}")
    return files


def test_every_name_we_use_is_there(real: tuple[str, dict[str, dict[str, str]]]) -> None:
    """A version has each name that our code uses, unless the table of missing names lists it.

    The code asks before it uses a name of the table.
    """
    version, classes = real
    names = used_names()
    folders = {file.rsplit("/", 1)[0] for files in names.values() for file in files}
    assert folders == set(USERS), "the code is where the test looks for it"
    assert {
        "LayerType.SOFTMAX",
        "Builder",
        "Runtime",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
    } <= set(names)
    for name, files in names.items():
        owner, _, member = name.partition(".")
        missing = features.MISSING_NAMES[version] & {owner, name}
        assert missing or (owner in classes and (not member or member in classes[owner])), (
            f"{name} ({', '.join(files)})"
        )


def test_the_recorder_offers_nothing_that_is_not_there(
    real: tuple[str, dict[str, dict[str, str]]],
) -> None:
    """Every class, method and enum member of the stand-in is real, with arguments in real order."""
    version, classes = real
    module = make_tensorrt(RecordingCudart(), version.split()[1] + ".0", version.split()[0])
    recorded = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    # The classes of objects that only TensorRT creates are no names of the stand-in's module.
    recorded |= {
        name: getattr(recorder, name)
        for name in (
            "ICudaEngine",
            "IExecutionContext",
            "INetworkDefinition",
            "ITensor",
            "ILayer",
            "ITimingCache",
        )
    }
    checked = 0
    for name, value in recorded.items():
        assert name in classes, name
        if hasattr(value, "__members__"):
            assert set(value.__members__) <= set(classes[name]), name
            continue
        for member in (member for member in dir(value) if not member.startswith("_")):
            assert member in classes[name], f"{name}.{member}"
            function = inspect.getattr_static(value, member)
            if inspect.isfunction(function):
                _, *ours = inspect.signature(function).parameters
                theirs = overloads(member, classes[name][member])
                # A real signature may have more arguments, which then have defaults.
                assert any(signature[: len(ours)] == ours for signature in theirs), (
                    f"{name}.{member}{ours}: {theirs}"
                )
                checked += 1
    # The control of the loop itself: it must not pass because it found nothing to check.
    assert checked > 30
    for name, members in ATTRIBUTES.items():
        assert set(members) <= set(classes[name]), name


def test_a_name_that_is_not_there_is_reported(
    real: tuple[str, dict[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a method of TensorRT 8, and an argument with another name, are reported."""

    def enqueue(self: Any, stream_handle: int) -> bool:
        return bool(stream_handle)

    def set_tensor_address(self: Any, name: str, address: int) -> bool:
        return bool(name and address)

    for name, function in (
        ("execute_async_v2", enqueue),
        ("set_tensor_address", set_tensor_address),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(recorder.IExecutionContext, name, function, raising=False)
            with pytest.raises(AssertionError, match=name):
                test_the_recorder_offers_nothing_that_is_not_there(real)
