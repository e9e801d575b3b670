"""Signs the facts of a build, so that plans that another account or machine built are recognized.

A plan is code. The signature is an HMAC with a random key that lies in the account's state folder
and that nobody else can read; whoever can write it can also run code as this account.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lame_runtime.errors import StorageError, shown
from lame_runtime.files.regular import open_regular

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

KEY_BYTES = 32


def sign(facts: DataclassInstance) -> str:
    """Returns the hex signature of a build's facts; their own `signature` is left out.

    Raises:
        StorageError: the account has no place for the key, or the key is damaged.
    """
    body = {name: value for name, value in asdict(facts).items() if name != "signature"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hmac.new(_key(), text.encode(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """Returns the account's key, which is made when it is first needed."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:
        # no HOME, and the system does not know the account
        raise StorageError(
            "this account has no home for the key that signs plans; set XDG_STATE_HOME"
        ) from None
    path = state / "lame" / "plan-key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_key(path)
        with open_regular(path) as file:
            # of the open file, so that no other can take its place in between
            _require_private(path, os.fstat(file.fileno()))
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise StorageError(
            f"{shown(path)}: the key that signs plans cannot be kept ({error.strerror}); "
            "set XDG_STATE_HOME"
        ) from None
    if len(key) != KEY_BYTES:
        raise StorageError(f"{shown(path)}: is damaged; remove it and build the plans again")
    return key


def _require_private(path: Path, status: os.stat_result) -> None:
    """Checks owner and mode of the key: whoever has it can pass off any plan as this account's.

    Raises:
        StorageError: another account owns the key, or others than its owner may read or write it.
    """
    if not hasattr(os, "geteuid"):
        return  # Windows has neither; its accounts' folders are private
    if status.st_uid != os.geteuid():
        raise StorageError(
            f"{shown(path)}: the key that signs plans belongs to another account (user "
            f"{status.st_uid}); "
            "remove it and build the plans again, or set XDG_STATE_HOME"
        )
    if mode := stat.S_IMODE(status.st_mode) & 0o077:
        raise StorageError(
            f"{shown(path)}: others may use the key that signs plans (mode {mode:03o}); "
            f"if nobody did, chmod 600 {shown(path)}; otherwise remove it and build the plans again"
        )


def _make_key(path: Path) -> None:
    # mkstemp's file is readable by this account alone, and never visible under the key's name half
    # written; a link, unlike a rename, does not replace a key that another process was faster to
    # make
    handle, fresh = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    with contextlib.suppress(FileExistsError):
        os.link(fresh, path)
    Path(fresh).unlink()
