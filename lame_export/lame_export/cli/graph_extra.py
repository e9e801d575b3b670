"""Turns a missing optional dependency into one line that says what to install."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from lame_runtime.errors import UsageError

EXTRA = "pip install 'lame-export[graph]'"
PACKAGES = frozenset(
    {"torch", "onnx", "onnx_ir", "onnxruntime", "lame_training", "rich", "matplotlib"}
)
"""Top-level packages that the extra installs."""


def needing_graph_extra(
    command: str, run: Callable[[argparse.Namespace], int]
) -> Callable[[argparse.Namespace], int]:
    """Wraps a command that needs the extra `graph`; a missing package becomes a `UsageError`."""

    def checked(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except ModuleNotFoundError as error:
            # the name may be that of a submodule, such as `lame_training.model`
            package = (error.name or "").split(".")[0]
            # any other missing module is a bug or a broken installation, which needs its traceback
            if package not in PACKAGES:
                raise
            raise UsageError(f"{command} needs {error.name}: {EXTRA}") from None

    return checked
