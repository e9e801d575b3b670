"""LaME export turns a checkpoint into ONNX graphs, TensorRT plans and a certificate of parity.

    plan, state        the passes of an export in order; the state that they share
    passes/            one file per pass
    forward/           the traced forward
    rewrites/          functions that rewrite graphs
    quantization/      how INT8 graphs are quantized
    lint/              rules that every graph must satisfy
    parity/            the certificate's rows that need PyTorch
    engine/            ONNX to TensorRT plans; needs only lame-runtime
    triton/            model repositories for Triton; needs only lame-runtime
    bisect/            layer at which a graph deviates from PyTorch
    demo/, cli/        the demo; the program `lame-export`

The public names are imported when they are first used, so that a device can build engines without
PyTorch and ONNX, which come with the extra `lame-export[graph]`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lame_export.parity.verify import verify
    from lame_export.plan import export

__all__ = ["export", "verify"]
__version__ = "0.1.0"

_MODULES = {"export": "lame_export.plan", "verify": "lame_export.parity.verify"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists names that are not imported yet as well, so that interactive shells complete them."""
    return sorted({*globals(), *__all__})
