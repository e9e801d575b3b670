"""Imports pyarrow where it is first used, because it is an extra and takes a fifth of a second."""

from __future__ import annotations

import importlib
from typing import Any

from lame_runtime.errors import UsageError


def arrow(module: str = "") -> Any:
    """Returns the module `pyarrow`, or one inside it, such as `arrow("parquet")`.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError:
        raise UsageError(
            "Parquet needs the package pyarrow, which is not installed: "
            "pip install 'lame-runtime[bulk]'"
        ) from None
