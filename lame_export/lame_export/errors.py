"""What can go wrong in an export, beside the runtime's tree of errors."""

from __future__ import annotations

from lame_runtime.errors import LameError


class ExportError(LameError):
    """A pass failed or a gate was not met; no bundle is left behind. Exits with 1."""

    exit_code = 1
