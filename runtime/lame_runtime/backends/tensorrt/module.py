"""The TensorRT module: `tensorrt` (10.3 to 11) or `tensorrt_rtx`, one interface under two names."""

from __future__ import annotations

import importlib
import re
import threading
from typing import Any

from lame_runtime.backends.tensorrt.cudart import MORE_MEMORY
from lame_runtime.errors import BackendError, DeviceError, first_line

MODULES = ("tensorrt", "tensorrt_rtx")
OLDEST = (10, 3)
"""TensorRT of JetPack 6. TensorRT-RTX counts from 1 and has always had what 10.3 has."""

# TensorRT reports running out of memory as text only, and each of its allocators in other words.
_OUT_OF_MEMORY = re.compile("out ?of ?memory|could not be allocated", re.IGNORECASE)


def load_tensorrt(name: str | None = None) -> Any:
    """Imports the module `tensorrt` or `tensorrt_rtx`.

    Args:
        name: one of `MODULES`; None takes the first that is installed.

    Raises:
        BackendError: none can be imported, or it is older than 10.3; the message says why for each.
    """
    reasons = []
    for candidate in MODULES if name is None else (name,):
        try:
            module = importlib.import_module(candidate)
        # The module loads TensorRT's libraries while it is imported. A missing one is an OSError,
        # and some versions of the bindings raise RuntimeError.
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{candidate}: {first_line(error)}")
            continue
        if candidate == "tensorrt" and _version(module) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            reasons.append(f"{candidate}: version {module.__version__} is older than {oldest}")
            continue
        return module
    raise BackendError(
        f"no TensorRT here ({'; '.join(reasons)}); "
        "pip install 'lame-runtime[tensorrt]' or 'lame-runtime[tensorrt-rtx]'"
    )


def _version(module: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in module.__version__.split(".")[:2])


def make_logger(trt: Any) -> Any:
    """Returns a logger that keeps TensorRT's errors, first lines only, and prints nothing.

    TensorRT's functions return None or False and say why only to the logger; `first` gives the
    reason back. TensorRT keeps a plain pointer to it: it must outlive every object that was made
    with it.
    """

    # Defined here because the base class exists only once TensorRT is imported.
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Collects errors; see `make_logger`."""

        def __init__(self) -> None:
            # pybind11 refuses objects of a subclass that leaves out this call.
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self._lock = threading.Lock()  # all workers' threads share this logger

        def log(self, severity: Any, msg: str) -> None:
            """Keeps an error; TensorRT calls this, from any thread."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                with self._lock:
                    self.errors.append(msg.splitlines()[0] if msg else "")

        def first(self) -> str:
            """Returns the first error since the last call, or "no reason given"."""
            # The first, because later ones are mostly consequences of it.
            with self._lock:
                first = self.errors[0] if self.errors else "no reason given"
                self.errors.clear()
            return first

    return Logger()


def make_runtime(trt: Any, logger: Any) -> Any:
    """Returns the TensorRT runtime that deserializes plans.

    Raises:
        BackendError: TensorRT does not start, usually because there is no GPU.
    """
    try:
        return trt.Runtime(logger)
    # The bindings turn the null pointer that TensorRT returns into a TypeError.
    except (TypeError, RuntimeError):
        raise BackendError(
            f"{trt.__name__} {trt.__version__} does not start ({logger.first()})"
        ) from None


def failure(action: str, reason: str, remedy: str = "") -> BackendError:
    """Returns the error to raise when a call of TensorRT failed.

    It is a `DeviceError` if memory ran out, which says nothing about the plan.

    Args:
        action: what failed, such as "vision.plan: TensorRT cannot run the graph".
        reason: what the logger's `first` returned.
        remedy: what the user can do about it.
    """
    if _OUT_OF_MEMORY.search(reason):
        return DeviceError(f"{action}: out of GPU memory ({reason}); {MORE_MEMORY}")
    return BackendError(f"{action} ({reason}){remedy and f'; {remedy}'}")
