"""LaME runtime embeds texts, pictures, videos and PDF pages with a bundle, without PyTorch.

    from lame_runtime import Encoder

    with Encoder.load("bundle") as encoder:
        queries = encoder.encode_query(["digits that add up to fifteen"])
        pictures = encoder.encode_document([{"image": "a.png"}, {"image": "b.png", "text": "b"}])
        scores = encoder.similarity(queries, pictures)

encoder, loading   the `Encoder`, and how it is loaded from a bundle
options, inputs    options of loading and embedding; accepted forms of inputs
arguments          numbers, switches and paths as users have them, or a `UsageError`
contract/          preprocessing, which training and deployment share exactly
bundle/            files of a bundle and their hashes
backends/          ONNX Runtime and TensorRT
parity/            checks of graphs against PyTorch's vectors
isolation/         bad inputs told from a failing backend
bulk/              corpora to tables of vectors, on one machine or many
cli/               the program `lame-runtime`
search/            an index on the disk, and searching it
integrations/      adapters for other libraries
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# First of all: it sets a variable that ONNX Runtime reads when it is imported.
from lame_runtime.backends import telemetry as _telemetry  # noqa: F401
from lame_runtime.errors import (
    BackendError,
    BundleError,
    DeviceError,
    ExportError,
    InputError,
    LameError,
    ProofError,
    StorageError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from lame_runtime.contract.prompts import Input, Picture, Video
    from lame_runtime.encoder import Encoder
    from lame_runtime.options import EncodeOptions, LoadOptions

__all__ = [
    "BackendError",
    "BundleError",
    "DeviceError",
    "EncodeOptions",
    "Encoder",
    "ExportError",
    "Input",
    "InputError",
    "LameError",
    "LoadOptions",
    "Picture",
    "ProofError",
    "StorageError",
    "TrainingError",
    "UsageError",
    "Video",
]
__version__ = "0.1.0"

_MODULES = {
    "EncodeOptions": "lame_runtime.options",
    "Encoder": "lame_runtime.encoder",
    "Input": "lame_runtime.contract.prompts",
    "LoadOptions": "lame_runtime.options",
    "Picture": "lame_runtime.contract.prompts",
    "Video": "lame_runtime.contract.prompts",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562): NumPy and Pillow take 0.2 s."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # later accesses skip this function
    return value


def __dir__() -> list[str]:
    """Lists names that are not imported yet as well, so that interactive shells complete them."""
    return sorted({*globals(), *__all__})
