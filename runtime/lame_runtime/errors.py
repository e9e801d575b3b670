"""Every error a user can meet, in one tree.

    LameError
    ├── BundleError    a bundle or checkpoint folder: missing file, wrong hash, unknown format, wrong kind
    ├── BackendError   no backend available (and why for each), a failed run, a non-finite output
    │   └── DeviceError    the GPU or its driver failed, or its memory ran out
    └── InputError     what was given to embed: not a picture, empty, too large, unknown role

Foreign exceptions are translated into these once, where they arise. A message is one line that names
the input and the remedy. On the command line `InputError` and `BundleError` exit with 2 (wrong use or
bad input), `BackendError` and a failed check with 1.
"""


class LameError(Exception):
    """The root of every error this project raises on purpose."""

    exit_code = 2


class BundleError(LameError):
    """A bundle or checkpoint cannot be used as it lies on the disk."""


class BackendError(LameError):
    """The graphs could not be run, or what they returned cannot be trusted."""

    exit_code = 1


class DeviceError(BackendError):
    """The GPU or its driver failed, or has no memory left: nothing is said about what a graph computes."""


class InputError(LameError):
    """An input cannot be embedded."""
