"""Keeps the telemetry of ONNX Runtime off.

Builds since 1.29 keep an identifier and events in the user's cache and send them. They read an
environment variable once, while they are loaded. `lame_runtime` therefore imports this module
before anything else; a program that has imported ONNX Runtime before has to set the variable
itself.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from typing import Any

logger = logging.getLogger(__name__)

VARIABLE = "ORT_DISABLE_TELEMETRY"
"""The environment variable that ONNX Runtime reads; a value that is set already is kept."""

_imported_before = "onnxruntime" in sys.modules and VARIABLE not in os.environ
os.environ.setdefault(VARIABLE, "1")


def stop_telemetry(ort: Any) -> None:
    """Stops the events of an ONNX Runtime that was loaded before the variable was set.

    Args:
        ort: the module `onnxruntime`.
    """
    # older builds for Linux have no telemetry, so nothing has been written
    version = tuple(int(part) for part in ort.__version__.split(".")[:2] if part.isdigit())
    if _imported_before and version >= (1, 29):
        ort.disable_telemetry_events()
        _warn_once()


@functools.cache
def _warn_once() -> None:
    logger.warning(
        "onnxruntime was imported before lame_runtime, so its telemetry has already written files "
        "to the user's cache; set %s=1 in the environment, or import lame_runtime first",
        VARIABLE,
    )
