"""LaME runtime: embeds pictures and texts from an exported bundle, without PyTorch.

from lame_runtime import Encoder

with Encoder.load("bundle") as encoder:
    queries = encoder.encode_query(["digits that add up to fifteen"])
    pictures = encoder.encode_document([{"image": "a.png"}, {"image": "b.png", "text": "a caption"}])
    scores = queries @ pictures.T
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lame_runtime.errors import BackendError, BundleError, InputError, LameError

if TYPE_CHECKING:
    from lame_runtime.contract.prompts import Input
    from lame_runtime.encoder import Encoder

__all__ = ["BackendError", "BundleError", "Encoder", "Input", "InputError", "LameError"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Encoder` and `Input` bring NumPy and Pillow (0.2 s), so they are imported when first asked for (PEP 562)."""
    if name == "Encoder":
        from lame_runtime.encoder import Encoder

        return Encoder
    if name == "Input":
        from lame_runtime.contract.prompts import Input

        return Input
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
