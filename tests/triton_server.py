"""Runs the real `tritonserver` of the wheel nvidia-pytriton on loopback, for tests alone.

The binary is that of Triton 2.51 (2024), which has known vulnerabilities: it listens on loopback
and only while a test runs. Its Python is that of `.venv/triton`, with NumPy 1.26: with NumPy 2 the
stub reads BYTES tensors wrongly and dies.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = Path(sys.prefix) / "triton"
PACKAGES = FOLDER / f"lib/python3.{sys.version_info.minor}/site-packages"
SERVER = PACKAGES / "pytriton/tritonserver"
STUB = f"python_backend_stubs/3.{sys.version_info.minor}/triton_python_backend_stub"
_START_SECONDS = 60.0


class Server:
    """A running server.

    Args:
        port: its HTTP port.
        log: the file of its output.
    """

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.log = log

    def send(self, model: str, inputs: dict[str, list[str]], **parameters: Any) -> Any:
        """Sends a request and returns its connection, so that several can wait together."""
        tensors = [
            {"name": name, "shape": [len(values), 1], "datatype": "BYTES", "data": values}
            for name, values in inputs.items()
        ]
        body = {"inputs": tensors, **({"parameters": parameters} if parameters else {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
        return connection

    def infer(self, model: str, inputs: dict[str, list[str]], **parameters: Any) -> tuple[int, Any]:
        """Returns the status and the JSON of the response to one request."""
        return answer(self.send(model, inputs, **parameters))

    def get(self, path: str) -> tuple[int, str]:
        """Returns the status and the body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def executions(self, model: str) -> dict[int, int]:
        """Returns how often batches of each size ran so far."""
        stats = json.loads(self.get(f"/v2/models/{model}/stats")[1])["model_stats"][0]
        sizes = stats.get("batch_stats", [])
        return {entry["batch_size"]: entry["compute_infer"]["count"] for entry in sizes}

    def log_text(self) -> str:
        """Returns what the server has logged so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, line: str, count: int) -> None:
        """Waits until the log holds a text `count` times."""
        deadline = time.monotonic() + _START_SECONDS
        while self.log_text().count(line) < count:
            assert time.monotonic() < deadline, f"no line {line!r}:\n{self.log_text()[-4000:]}"
            time.sleep(0.005)


def answer(connection: Any) -> tuple[int, Any]:
    """Returns the status and the JSON of the response that a connection waits for."""
    with contextlib.closing(connection):
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def require_server() -> None:
    """Skips the test if the server's environment is missing."""
    if not (SERVER / STUB).is_file():
        pytest.skip(f"no nvidia-pytriton for this Python in {FOLDER}; make test puts it there")


@contextlib.contextmanager
def running(repository: Path, folder: Path) -> Iterator[Server]:
    """Starts a server and yields it when its models are ready; skips if it is not installed.

    Args:
        repository: the models.
        folder: an empty folder, for the backend and the log.
    """
    require_server()
    backend = folder / "backends/python"
    backend.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (backend / name).symlink_to(SERVER / "backends/python" / name)
    stub = Path(shutil.copy(SERVER / STUB, backend))
    stub.chmod(0o755)
    port = _free_port()
    libraries = [sysconfig.get_config_var("LIBDIR"), str(PACKAGES / "nvidia_pytriton.libs")]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(FOLDER / "bin"), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTHONHOME", None)
    command = [
        str(SERVER / "bin/tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={folder / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--disable-auto-complete-config",
        "--log-verbose=1",  # with a line for each batch
    ]
    log = folder / "log"
    with log.open("wb") as output:
        # the stub ignores PYTHONPATH, but imports from the folder that it is started in
        process = subprocess.Popen(
            command, cwd=ROOT / "runtime", env=environment, stdout=output, stderr=output
        )
    server = Server(port, log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _is_ready(server):
            end = server.log_text()[-4000:]
            assert process.poll() is None, f"the server has ended:\n{end}"
            assert time.monotonic() < deadline, f"the server does not start:\n{end}"
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def vectors_there(bundle: Path, inputs: list[Any]) -> list[list[float]]:
    """Returns the vectors of JSON inputs with their roles, from the server's own environment.

    NumPy and ONNX Runtime are others than those of the tests, and so may be the last bits.

    Args:
        bundle: the bundle.
        inputs: pairs of an input, with pictures as `data:` URIs, and a role or None.
    """
    code = (
        "import json, sys\n"
        "from lame_runtime import Encoder\n"
        "with Encoder.load(sys.argv[1], backend='onnxruntime') as encoder:\n"
        "    pairs = json.load(sys.stdin)\n"
        "    rows = [encoder.encode([item], role=role)[0].tolist() for item, role in pairs]\n"
        "print(json.dumps(rows))\n"
    )
    done = subprocess.run(
        [str(FOLDER / "bin/python"), "-c", code, str(bundle)],
        cwd=ROOT / "runtime",
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
        input=json.dumps(inputs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows: list[list[float]] = json.loads(done.stdout)
    return rows


def model_config() -> Any:
    """Returns the protobuf class `ModelConfig` of tritonclient; skips if it is not installed."""
    path = PACKAGES / "tritonclient/grpc/model_config_pb2.py"
    if not path.is_file():
        pytest.skip(f"tritonclient is not in {FOLDER}; make test puts it there")
    # by its file, because the package itself imports what only a client needs
    name = "triton_model_config_pb2"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name].ModelConfig


def _is_ready(server: Server) -> bool:
    try:
        return server.get("/v2/health/ready")[0] == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
