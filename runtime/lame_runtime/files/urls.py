"""Names that users give: file names, URLs (refused) and `data:` URIs (decoded)."""

from __future__ import annotations

import base64
import binascii
import os
import re
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from lame_runtime.errors import InputError, shown
from lame_runtime.files.regular import open_regular

MAX_DATA_CHARACTERS = 100_000_000
"""Longest `data:` URI that is decoded."""
MAX_ESCAPED_CHARACTERS = 10_000_000
"""Longest one with percent escapes, which take much more memory while they are decoded."""
# A scheme has two letters or more: `C:/a.png` is a name, and so are `12:30.png` and `file:a.png`.
_URL = re.compile(r"\s*(?:[a-z][a-z0-9+.-]+:)+//", re.IGNORECASE)
# `Path` leaves one slash of two.
_URL_AS_PATH = re.compile(
    r"(?:https?|ftps?|sftp|file|s3|gs|gcs|hf|az|abfss?|blob):/", re.IGNORECASE
)
# Without a comma, or with an invalid media type, it is a file name with a colon.
_DATA = re.compile(
    r"\s*data:(?:[\w.+-]+/[\w.+-]+)?(?P<parameters>(?:;[^,;]*)*),", re.IGNORECASE | re.ASCII
)
_LONGEST_HEADER = 1_000


def is_url(name: str) -> bool:
    """Returns whether a string is a URL, such as `https://…`, and not the name of a file."""
    return _URL.match(name) is not None


def url_error(name: str) -> InputError:
    """Returns the error that refuses a URL."""
    return InputError(
        f"{shown(name)}: is a URL, and nothing is downloaded; fetch the file and give its path or "
        "its bytes"
    )


def resolved(source: Any) -> Any:
    """Returns the bytes of a `data:` URI, and anything else unchanged.

    Raises:
        InputError: the source is a URL, a `data:` URI that is damaged or too long, or an object
            that gives no path.
    """
    if isinstance(source, os.PathLike):
        path_name(source)
    if not isinstance(source, str):
        return source
    if is_url(source):
        raise url_error(source)
    header = _DATA.match(source[:_LONGEST_HEADER])
    return source if header is None else _decoded(source, header)


def path_name(path: os.PathLike[Any]) -> str:
    """Returns the name that a path object stands for.

    Raises:
        InputError: the object gives none.
    """
    try:
        return os.fsdecode(path)
    # whatever the code of the object's class raises
    except Exception as error:
        raise InputError(
            f"an object of the type {shown(type(path).__name__)} gives no path "
            f"({type(error).__name__}); give a str or a Path"
        ) from None


def open_media(path: str, kind: str) -> IO[bytes]:
    """Opens a picture or another file that a user named; only regular files are opened.

    Args:
        path: the file.
        kind: what it should be, for messages: "picture".

    Raises:
        InputError: the file is missing, may not be read, or is not a regular file.
    """
    if not path:
        raise InputError(f"the name of a {kind} is empty; give a path")
    try:
        return open_regular(path)
    except FileNotFoundError:
        if _URL_AS_PATH.match(path):
            raise url_error(path) from None
        raise InputError(f"{shown(path)}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(
            f"{shown(path)}: is a folder, not a {kind}; name the files in it"
        ) from None
    except PermissionError:
        raise InputError(f"{shown(path)}: may not be read; check its permissions") from None
    except OSError as error:
        reason = error.strerror or "cannot be opened"
        raise InputError(f"{shown(path)}: {reason}; give the path of a {kind}") from None


def _decoded(uri: str, header: re.Match[str]) -> bytes:
    name, start = shown(uri), header.end()
    most = MAX_ESCAPED_CHARACTERS if "%" in uri else MAX_DATA_CHARACTERS
    if len(uri) > most:
        raise InputError(
            f"{name}: a data: URI of {len(uri):,} characters, the limit is {most:,}; "
            "write it to a file and give its path"
        )
    payload, _, fragment = uri[start:].partition("#")
    if fragment.lower().startswith("page="):
        raise InputError(f"{name}: pages of a data: URI cannot be chosen; give a PDF of one page")
    is_base64 = header["parameters"].replace(" ", "").lower().endswith(";base64")
    try:
        data = unquote_to_bytes(payload) if "%" in payload else payload.encode("ascii")
        if not is_base64:
            return data
        # as browsers do: white space counts for nothing, and the padding may be missing
        data = data.translate(None, b" \t\r\n\f").rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            f"{name}: the data: URI cannot be decoded; it may be truncated or damaged"
        ) from None
