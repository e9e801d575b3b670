"""Stands for `triton_python_backend_utils`, so that `model.py` runs without a server.

Names and arguments are those that `tests/tritonserver/test_real_server.py` meets in the real one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        """Returns the tensor's name."""
        return self._name

    def as_numpy(self) -> np.ndarray:
        """Returns the array."""
        return self._array


class TritonError:
    """An error of one response."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED = range(6)
    ALREADY_EXISTS, CANCELLED = 6, 7

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        """Returns what the client reads."""
        return self._message

    def code(self) -> int:
        """Returns the code, which the server translates to that of HTTP or gRPC."""
        return self._code


class InferenceResponse:
    """The response to one request: tensors or an error."""

    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self._tensors = output_tensors
        self._error = error

    def output_tensors(self) -> list[Tensor]:
        """Returns the tensors."""
        return self._tensors

    def error(self) -> TritonError | None:
        """Returns the error; None if there is none."""
        return self._error


class Request:
    """A request as the server hands it over.

    Args:
        tensors: values per row, by tensor.
        parameters: of the request.
        is_gone: whether the client has hung up.
    """

    def __init__(
        self,
        tensors: dict[str, list[bytes]],
        parameters: dict[str, Any] | None = None,
        *,
        is_gone: bool = False,
    ) -> None:
        self._tensors = [
            Tensor(name, np.array(values, dtype=object).reshape(-1, 1))
            for name, values in tensors.items()
        ]
        self._parameters = parameters
        self._is_gone = is_gone

    def inputs(self) -> list[Tensor]:
        """Returns the tensors."""
        return self._tensors

    def parameters(self) -> str:
        """Returns the parameters as JSON, an empty text if there are none."""
        return "" if self._parameters is None else json.dumps(self._parameters)

    def is_cancelled(self) -> bool:
        """Returns whether nobody waits for the response."""
        return self._is_gone


def load_model(folder: Path, patch: pytest.MonkeyPatch) -> Any:
    """Imports the `model.py` of a repository's model and initializes it as Triton does.

    The caller calls `finalize`. Only the part of the configuration that `model.py` reads is given.
    """
    stand_in = types.ModuleType("triton_python_backend_utils")
    stand_in.Tensor, stand_in.TritonError = Tensor, TritonError  # type: ignore[attr-defined]
    stand_in.InferenceResponse = InferenceResponse  # type: ignore[attr-defined]
    stand_in.Logger = types.SimpleNamespace(log_info=lambda _: None)  # type: ignore[attr-defined]
    patch.setitem(sys.modules, stand_in.__name__, stand_in)
    spec = importlib.util.spec_from_file_location("model_in_repository", folder / "1/model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps({"parameters": parameters_of(folder)}),
            "model_repository": str(folder),
            "model_version": "1",
            "model_name": folder.name,
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    return model


def parameters_of(folder: Path) -> dict[str, dict[str, str]]:
    """Returns the parameters of a model's configuration, as Triton gives them to a model."""
    import re

    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    pairs = re.findall(r'^parameters { key: "(\w+)" value { string_value: (".*") } }$', text, re.M)
    return {key: {"string_value": json.loads(value)} for key, value in pairs}
