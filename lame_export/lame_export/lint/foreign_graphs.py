"""Translates what ONNX, ONNX Runtime and our own code raise for a graph that we did not export.

`verify` and `bisect` read bundles that may come from others. The runtime checks the form of a graph
before it is used; its content can still be whatever anybody computed hashes of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lame_runtime.bundle.bundle import PARTS, Bundle
from lame_runtime.errors import BundleError, LameError, first_line, shown

REMEDY = "copy or export the bundle again"


@contextmanager
def translated(bundle: Path) -> Iterator[None]:
    """Turns exceptions of other libraries inside of the block into `BundleError`.

    Errors of LaME, `MemoryError` and interrupts pass.
    """
    try:
        yield
    except (LameError, MemoryError):
        raise
    except Exception as error:  # a graph can make ONNX, ONNX Runtime and NumPy raise anything
        kind = type(error).__name__
        raise BundleError(
            f"{bundle}: its graphs cannot be used ({kind}: {shown(first_line(error))}); {REMEDY}"
        ) from None


def check_graphs(bundle: Bundle) -> None:
    """Checks every graph of a bundle: hashes, form, and that it has the name the exporter gives.

    Raises:
        BundleError: a file is damaged, or the manifest names other files than the exporter does, so
            that other graphs would be measured than those that run.
    """
    for graph in bundle.graphs:
        for part, path in zip(PARTS, bundle.graph_paths(graph), strict=True):
            if path != bundle.folder / f"graphs/{part}.{graph}.onnx":
                raise BundleError(
                    f"{bundle.folder}: its manifest names {shown(path.name)} as {part} of "
                    f"{shown(graph)}; {REMEDY}"
                )
