"""The model that Triton runs: requests to inputs, one call of the encoder, and a response to each.

`lame-export triton` puts this file beside a bundle. It needs `lame_runtime` in the environment of
Triton's Python backend, whose process calls the methods below in this order.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from lame_runtime import DeviceError, Encoder, InputError, LameError, UsageError
from lame_runtime.integrations.triton.triton_service import TritonService

# the process's stderr is part of the server's log
logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)


class TritonPythonModel:
    """Embeds every list of requests that the dynamic batcher hands over in one call."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the bundle and proves it; an error here is shown and the model stays unavailable.

        Args:
            args: Triton's: the configuration as JSON, and where and on which device the model runs.
        """
        configured = json.loads(args["model_config"])["parameters"]
        settings = {name: value["string_value"] for name, value in configured.items()}
        version = Path(args["model_repository"]) / args["model_version"]
        on_gpu = args["model_instance_kind"] == "GPU"
        encoder = Encoder.load(
            version / settings["bundle"],  # an absolute path stands for itself
            backend=settings["backend"],
            graph=settings.get("graph"),
            threads=int(settings["threads"]) if "threads" in settings else None,
            gpu=int(args["model_instance_device_id"]) if on_gpu else 0,
        )
        self.service = TritonService(encoder, allow_video=settings["video"] == "true")
        pb_utils.Logger.log_info(f"{args['model_name']}: {encoder.reason}; golden vectors hold")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Returns a response for each request, in order: the tensor `embeddings`, or an error."""
        outcomes: list[Any] = [self._read(request) for request in requests]
        numbers = [number for number, raw in enumerate(outcomes) if isinstance(raw, tuple)]
        embedded = self.service.embed([outcomes[number] for number in numbers])
        for number, outcome in zip(numbers, embedded, strict=True):
            outcomes[number] = outcome
        return [_response(outcome) for outcome in outcomes]

    def is_ready(self) -> bool:
        """Answers the readiness probe of servers from 2026 on: does a vector go through?"""
        return self.service.is_ready()

    def finalize(self) -> None:
        """Releases the graphs."""
        self.service.close()

    def _read(self, request: Any) -> Any:
        """Returns tensors and parameters of a request, or its error."""
        if request.is_cancelled():
            return pb_utils.TritonError("the client is gone", pb_utils.TritonError.CANCELLED)
        try:
            tensors = {
                tensor.name(): tensor.as_numpy().reshape(-1).tolist() for tensor in request.inputs()
            }
            return tensors, json.loads(request.parameters() or "{}")
        # an exception would fail the requests of everyone in the batch
        except Exception:
            logging.exception("a request could not be read")
            return InputError("the tensors of the request cannot be read")


def _response(outcome: Any) -> Any:
    if isinstance(outcome, np.ndarray):
        return pb_utils.InferenceResponse([pb_utils.Tensor("embeddings", outcome)])
    if isinstance(outcome, LameError):
        outcome = pb_utils.TritonError(str(outcome), _code(outcome))
    return pb_utils.InferenceResponse([], outcome)


def _code(error: LameError) -> Any:
    """Returns Triton's code: the client's fault, a lost device, or ours."""
    if isinstance(error, InputError | UsageError):
        return pb_utils.TritonError.INVALID_ARG
    is_lost = isinstance(error, DeviceError)
    return pb_utils.TritonError.UNAVAILABLE if is_lost else pb_utils.TritonError.INTERNAL
