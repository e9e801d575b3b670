"""Options of a model in a Triton repository, and the `config.pbtxt` that they make.

Fields are those of `model_config.proto` of triton-inference-server/common.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lame_runtime.arguments import choice, integer, number
from lame_runtime.errors import UsageError, printable, shown
from lame_runtime.integrations.triton.triton_requests import TENSORS
from lame_runtime.options import BACKENDS, MAX_BATCH

from lame_export.triton.warmup_files import WarmUp

KINDS = {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu"}
"""Backend that runs the graph by default, for each kind of device."""
OUTPUT = "embeddings"
# what Triton takes for a folder and what a URL holds without escapes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LONGEST_TIMEOUT = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Options of a model.

    Attributes:
        name: the model's name, which clients use and its folder has.
        kind: "cpu" or "gpu", the device that its one instance runs on.
        backend: as in `LoadOptions`; None takes that of `KINDS`.
        graph: the bundle's graph; None leaves the choice to the backend.
        threads: CPU threads; None takes all cores.
        max_batch_size: most inputs that are embedded together.
        max_queue: requests that may wait; further ones are refused.
        timeout: seconds that a request may wait; later it is refused. Clients may set less.
        allow_video: take encoded videos, too.

    Raises:
        UsageError: a value is out of range, or the backend does not run on the device.
    """

    name: str
    kind: str = "cpu"
    backend: str | None = None
    graph: str | None = None
    threads: int | None = None
    max_batch_size: int = 32
    max_queue: int = 256
    timeout: float = 30.0
    allow_video: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"`name` is {shown(self.name)!r}: use letters, digits, dots, - and _, at most 128, "
                "the first a letter or a digit"
            )
        choice("kind", self.kind, KINDS)
        if self.backend is not None:
            choice("backend", self.backend, BACKENDS)
        if (self.runs_on_cpu) != (self.kind == "cpu"):
            raise UsageError(
                f"`backend` {self.runner} does not run on `kind` {self.kind}; give both, or neither"
            )
        if self.threads is not None:
            # not more than the cores here: the server may have more
            integer("threads", self.threads, 1, 4096)
            if self.kind != "cpu":
                raise UsageError("`threads` is for `kind` cpu; leave it out")
        integer("max_batch_size", self.max_batch_size, 1, MAX_BATCH)
        integer("max_queue", self.max_queue, 1, 1_000_000)
        number("timeout", self.timeout, 0.001, _LONGEST_TIMEOUT)

    @property
    def runner(self) -> str:
        """The backend that runs the graph."""
        return self.backend or KINDS[self.kind]

    @property
    def runs_on_cpu(self) -> bool:
        """Whether the backend runs on a CPU; "auto" may, and is refused for a GPU."""
        return self.runner in ("onnxruntime", "auto")


def config_text(serving: Serving, dim: int, bundle: str, warm_ups: Iterable[WarmUp]) -> str:
    """Returns a `config.pbtxt`.

    Args:
        serving: the options.
        dim: length P of the vectors.
        bundle: the bundle's path on the server, or relative to the folder of the version.
        warm_ups: the inputs that Triton runs before the model is ready.

    Raises:
        UsageError: the path holds a control character.
    """
    if printable(bundle) != bundle:
        raise UsageError(f"`bundle_path` is {shown(bundle)}: use a path without control characters")
    settings = {
        "bundle": bundle,
        "backend": serving.runner,
        "graph": serving.graph,
        "threads": None if serving.threads is None else str(serving.threads),
        "video": str(serving.allow_video).lower(),
    }
    samples = ",\n".join(_sample(warm_up) for warm_up in warm_ups)
    return "\n".join(
        [
            f"name: {_quoted(serving.name)}",
            'backend: "python"',
            f"max_batch_size: {serving.max_batch_size}",
            "",
            "input [",
            ",\n".join(
                f'  {{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] optional: true }}'
                for name in TENSORS
            ),
            "]",
            f'output [\n  {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {dim} ] }}\n]',
            "",
            # each further instance would be a further process with its own copy of the weights
            instance_group(serving),
            "",
            "# no delay: the next batch forms while one runs",
            "dynamic_batching {",
            "  default_queue_policy {",
            f"    max_queue_size: {serving.max_queue}",
            f"    default_timeout_microseconds: {round(serving.timeout * 1e6)}",
            "    timeout_action: REJECT",
            "    allow_timeout_override: true",
            "  }",
            "}",
            "",
            "# the model is ready when these have gone through",
            f"model_warmup [\n{samples}\n]",
            "",
            *(
                f'parameters {{ key: "{key}" value {{ string_value: {_quoted(value)} }} }}'
                for key, value in settings.items()
                if value is not None
            ),
            "",
        ]
    )


def instance_group(serving: Serving) -> str:
    """Returns the field that places the one instance of a model on its device."""
    device = "kind: KIND_CPU" if serving.kind == "cpu" else "kind: KIND_GPU gpus: [ 0 ]"
    return f"instance_group [\n  {{ count: 1 {device} }}\n]"


def _sample(warm_up: WarmUp) -> str:
    inputs = "\n".join(
        f'    inputs {{ key: "{tensor}" value {{ data_type: TYPE_STRING dims: [ 1 ] '
        f"input_data_file: {_quoted(file)} }} }}"
        for tensor, file in warm_up.files.items()
    )
    return f"  {{\n    name: {_quoted(warm_up.name)} batch_size: 1\n{inputs}\n  }}"


def _quoted(text: str) -> str:
    """Returns a string of protobuf's text format, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
