"""The TensorRT module: `tensorrt` (10.3 to 11) or `tensorrt_rtx`, one interface under two names."""

from __future__ import annotations

import importlib
import re
import threading
from typing import Any

from lame_runtime.backends._cudart import MORE_MEMORY
from lame_runtime.errors import BackendError, DeviceError

MODULES = ("tensorrt", "tensorrt_rtx")
OLDEST = (10, 3)
"""JetPack 6; TensorRT-RTX counts from 1 and has always had what 10.3 has."""

_OUT_OF_MEMORY = re.compile("out ?of ?memory|could not be allocated", re.IGNORECASE)


def load_tensorrt(name: str | None = None) -> Any:
    """The `tensorrt` or `tensorrt_rtx` module.

    Args:
        name: one of `MODULES`; None takes the first that is installed.

    Raises:
        BackendError: none can be imported, or it is older than 10.3; the message says why for each.
    """
    reasons = []
    for each in MODULES if name is None else (name,):
        try:
            module = importlib.import_module(each)
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{each}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            continue
        if each == "tensorrt" and tuple(int(part) for part in module.__version__.split(".")[:2]) < OLDEST:
            reasons.append(f"{each}: version {module.__version__} is older than {'.'.join(map(str, OLDEST))}")
            continue
        return module
    raise BackendError(f"no TensorRT here ({'; '.join(reasons)}); pip install 'lame-runtime[tensorrt]' or 'lame-runtime[tensorrt-rtx]'")


def make_logger(trt: Any) -> Any:
    """A logger that keeps TensorRT's errors in `errors`, first lines only, and prints nothing.

    It must outlive what was made with it.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        """See `make_logger`."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self._lock = threading.Lock()  # several workers' threads ask and are told

        def log(self, severity: Any, msg: str) -> None:
            """TensorRT's callback."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                with self._lock:
                    self.errors.append(msg.splitlines()[0] if msg else "")

        def first(self) -> str:
            """The first error since the last call, or what to say without one."""
            with self._lock:
                first = self.errors[0] if self.errors else "no reason given"
                self.errors.clear()
            return first

    return Logger()


def make_runtime(trt: Any, logger: Any) -> Any:
    """What loads plans; raises `BackendError` where TensorRT does not start."""
    try:
        return trt.Runtime(logger)
    except (TypeError, RuntimeError):  # the bindings' way to say that TensorRT gave nothing
        raise BackendError(f"{trt.__name__} {trt.__version__} does not start ({logger.first()})") from None


def failure(what: str, reason: str, remedy: str = "") -> BackendError:
    """What to raise where TensorRT says no; where it ran out of memory, nothing is wrong with the plan."""
    if _OUT_OF_MEMORY.search(reason):
        return DeviceError(f"{what}: out of GPU memory ({reason}); {MORE_MEMORY}")
    return BackendError(f"{what} ({reason}){remedy and f'; {remedy}'}")
