"""Every name and argument of TensorRT that we use, and that the recorder offers, against the real bindings.

The bindings of 10.3, 10.16 and 11.4 are real wheels of 1 MB; TensorRT itself cannot be had without a GPU, so they are
imported over libraries that hold its nine C symbols and do nothing. TensorRT-RTX is imported as it is.
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
VERSIONS = {"tensorrt 10.3": "10.3.0", "tensorrt 10.16": "10.16.1.11", "tensorrt 11.4": "11.4.0.106", "tensorrt_rtx 1.7": ""}
SYMBOLS = (
    *(f"create{name}_INTERNAL" for name in ("InferBuilder", "InferRuntime", "InferRefitter", "NvOnnxParser", "NvOnnxParserRefitter")),
    *("getBuilderPluginRegistry", "getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins"),
)
USERS = ("lame_export/lame_export/engine", "lame_export/lame_export/bisect", "runtime/lame_runtime/backends")
SURFACE = """
import importlib, inspect, json, sys
module = importlib.import_module(sys.argv[1])
found = {}
for name in dir(module):
    value = getattr(module, name)
    if inspect.isclass(value):
        found[name] = {each: str(getattr(getattr(value, each), "__doc__", "") or "") for each in dir(value)}
print(json.dumps({"version": module.__version__, "classes": found}))
"""
ATTRIBUTES = {
    "IBuilderConfig": ("builder_optimization_level", "hardware_compatibility_level", "progress_monitor"),
    "Runtime": ("engine_host_code_allowed",),
    "ITensor": ("name", "shape", "dtype", "get_dimension_name"),
    "ILayer": ("type", "name", "num_inputs", "num_outputs", "get_input", "get_output", "set_input"),
    "INetworkDefinition": ("add_cast", "mark_output", "num_layers", "get_layer"),
    "LayerType": ("SOFTMAX", "MATRIX_MULTIPLY", "REDUCE", "NORMALIZATION", "CAST"),
    "DataType": ("FLOAT", "HALF"),
    "ISoftMaxLayer": ("get_input", "set_input", "get_output"),
    "ICastLayer": ("get_output", "to_type"),
}
"""Set or read on instances."""


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Libraries that satisfy the loader."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    root = tmp_path_factory.mktemp("stubs")
    (root / "stub.c").write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for major in ("10", "11"):
        (root / major).mkdir()
        for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            library = f"lib{name}.so.{major}"
            options = ["-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(root / major / library)]
            subprocess.run([compiler, *options, str(root / "stub.c")], check=True)
    return root


@pytest.fixture(scope="session", params=VERSIONS)
def real(request: pytest.FixtureRequest, stubs: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """A version and its classes: per member, its documentation."""
    version = VERSIONS[request.param]
    environment = dict(os.environ)
    if version:
        if not (BINDINGS / version).is_dir():
            pytest.skip(f"the bindings of {version} are not in {BINDINGS}; make test puts them there")
        environment |= {"PYTHONPATH": str(BINDINGS / version), "LD_LIBRARY_PATH": str(stubs / version.split(".")[0])}
    module = "tensorrt_bindings" if version else "tensorrt_rtx"
    out = subprocess.run([sys.executable, "-c", SURFACE, module], env=environment, check=True, capture_output=True, text=True).stdout
    found = json.loads(out)
    assert found["version"].startswith(version or "1.7")
    return request.param, found["classes"]


def overloads(member: str, documentation: str) -> list[list[str]]:
    """Argument names of each signature that pybind documents, `self` left out."""
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(member)}\((.*)\) ->", documentation, flags=re.MULTILINE)
    return [[name for name in re.findall(r"(\w+): ", line) if name != "self"] for line in lines]


def test_the_table_says_what_each_version_lacks(real: tuple[str, dict[str, dict[str, str]]]) -> None:
    """No more and no less, of what we could use."""
    version, classes = real

    def there(name: str) -> bool:
        owner, _, member = name.partition(".")
        return owner in classes and (not member or member in classes[owner])

    assert {name for name in features.WANTED if not there(name)} == features.LACKS[version]


def used() -> dict[str, set[str]]:
    """Dotted names behind `trt.` in our code, and where."""
    found: dict[str, set[str]] = {}
    for place in USERS:
        for path in (ROOT / place).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names: list[str] = []
                while isinstance(node, ast.Attribute):
                    names.insert(0, node.attr)
                    node = node.value
                owner = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
                is_module = owner == "trt" or (owner == "self" and names[:1] == ["_trt"])
                if is_module and names:
                    names = names[1:] if names[0] == "_trt" else names
                    if names and not names[0].startswith("__"):
                        found.setdefault(".".join(names[:2]), set()).add(path.name)
    return found


def test_every_name_we_use_is_there(real: tuple[str, dict[str, dict[str, str]]]) -> None:
    """Or the table says it is not, and the code asks first."""
    version, classes = real
    names = used()
    assert "device.py" in set().union(*names.values()), "bisect is read, too"
    assert {"LayerType.SOFTMAX", "Builder", "Runtime", "ExecutionContextAllocationStrategy.USER_MANAGED"} <= set(names)
    for name, where in names.items():
        owner, _, member = name.partition(".")
        lacking = features.LACKS[version] & {owner, name}
        assert lacking or (owner in classes and (not member or member in classes[owner])), f"{name} ({', '.join(where)})"


def test_the_recorder_offers_nothing_that_is_not_there(real: tuple[str, dict[str, dict[str, str]]]) -> None:
    """Each class, method, argument and enum member of the stand-in, in the same order."""
    version, classes = real
    module = make_tensorrt(RecordingCudart(), version.split()[1] + ".0", version.split()[0])
    made = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    made |= {
        name: getattr(recorder, name)
        for name in ("ICudaEngine", "IExecutionContext", "INetworkDefinition", "ITensor", "ILayer", "ITimingCache")
    }
    checked = 0
    for name, value in made.items():
        assert name in classes, name
        if hasattr(value, "__members__"):
            assert set(value.__members__) <= set(classes[name]), name
            continue
        for member in (each for each in dir(value) if not each.startswith("_")):
            assert member in classes[name], f"{name}.{member}"
            function = inspect.getattr_static(value, member)
            if inspect.isfunction(function):
                ours = [each for each in inspect.signature(function).parameters if each != "self"]
                theirs = overloads(member, classes[name][member])
                assert any(each[: len(ours)] == ours for each in theirs), f"{name}.{member}{ours}: {theirs}"
                checked += 1
    assert checked > 30
    for name, members in ATTRIBUTES.items():
        assert set(members) <= set(classes[name]), name


def test_a_name_that_is_not_there_is_seen(real: tuple[str, dict[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a method of TensorRT 8, and an argument by another name."""

    def enqueue(self: Any, stream_handle: int) -> bool:
        return bool(stream_handle)

    def set_tensor_address(self: Any, name: str, address: int) -> bool:
        return bool(name and address)

    for name, function in (("execute_async_v2", enqueue), ("set_tensor_address", set_tensor_address)):
        with monkeypatch.context() as patch:
            patch.setattr(recorder.IExecutionContext, name, function, raising=False)
            with pytest.raises(AssertionError, match=name):
                test_the_recorder_offers_nothing_that_is_not_there(real)
