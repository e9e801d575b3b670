"""Copies of the tiny bundle with changes, and what is called with them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from lame_runtime import Encoder, LameError
from lame_runtime.cli.main import main

from fuzz.case import Case
from fuzz.guard.worker import Room
from fuzz.kinds.base import TINY_BUNDLE, Kind, link_tree, remove
from fuzz.kinds.edits import edited
from fuzz.kinds.embedding import load_tiny, run_command
from fuzz.media.pictures import pattern
from fuzz.outcome import RefusedError, WrongError, check_equal, check_vectors

PROBES = ("digits that add up to fifteen", "seven")
MODEL_FILES = ("contract.json", "tokenizer.json", "graphs/")
"""Files that decide what the vectors are."""


class BundleCopy(Kind):
    """A kind whose cases change a copy of the tiny bundle.

    A case holds any of these:

        json      edits of JSON files, by file name
        lines     edits of `golden/inputs.jsonl`, whose lines are a list of values
        bytes     [file, offset, bit to flip] or [file, data]
        files     [what, file] of `_change_file`
        rehash    whether the manifest's hashes are made anew, as anyone can
        calls     some of "load", "verify", "info"
        refused   the calls that must be refused
    """

    def open(self, room: Room) -> None:
        """Copies the bundle once and runs every call once, so that all is imported."""
        super().open(room)
        self.base = room.fixed / f"{self.name}-bundle"
        link_or_copy(self.base)
        self._expected = load_tiny().encode([*PROBES, pattern()])
        for call in ("load", "verify", "info"):
            self.call(call, self.base)

    def prepare(self, case: Case) -> None:
        """Makes the copy."""
        self.folder = self.room.work / "bundle"
        link_tree(self.base, self.folder)
        for name, changes in case.get("json", {}).items():
            _rewrite_json(self.folder / name, changes)
        if "lines" in case:
            _rewrite_lines(self.folder / "golden/inputs.jsonl", case["lines"])
        for change in case.get("bytes", []):
            _change_bytes(self.folder, change)
        for what, name in case.get("files", []):
            _change_file(self.folder / name, what, self.room)
        if case.get("rehash"):
            rehash(self.folder, case.get("manifest", []))

    def run(self, case: Case) -> None:
        """Runs the calls; those that must be refused are wrong if they are not."""
        errors = []
        for call in case.get("calls", ["load"]):
            try:
                self.call(call, self.folder, self._same_model(case))
            except WrongError:
                raise
            except Exception as error:
                errors.append(error)
            else:
                if call in case.get("refused", ()):
                    raise WrongError(f"{call} accepts the bundle")
        # raised after all calls; an exception of another library first, because it is the fault
        for error in sorted(errors, key=_is_ours):
            raise error

    def call(self, call: str, folder: Path, same_model: bool = True) -> None:
        """Loads and embeds, or runs `verify` or `info`."""
        if call == "load":
            with Encoder.load(folder, backend="onnxruntime", threads=1) as encoder:
                vectors = encoder.encode([*PROBES, pattern()])
                check_vectors(vectors, 3, encoder.dim)
            if same_model:
                check_equal(vectors, self._expected)
        elif call == "verify":
            run_command(main, ["verify", str(folder), "--backend", "onnxruntime", "--threads", "1"])
        else:
            run_command(main, ["info", str(folder)])

    @staticmethod
    def _same_model(case: Case) -> bool:
        """Returns whether nothing was changed that decides what the vectors are."""
        names = [*case.get("json", {}), *(change[0] for change in case.get("bytes", []))]
        names += [name for _, name in case.get("files", [])]
        return not any(name.startswith(MODEL_FILES) or name == "manifest.json" for name in names)


def link_or_copy(target: Path) -> None:
    """Copies the tiny bundle, because the repository may be on another disk."""
    shutil.copytree(TINY_BUNDLE, target)


def rehash(folder: Path, changes: list[list[Any]]) -> None:
    """Writes the manifest's hashes anew, applies edits, and hashes the manifest itself."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        for name in manifest["files"]:
            if (folder / name).is_file():
                manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return  # the manifest is what was damaged
    try:
        text = edited(manifest, changes)
        manifest = json.loads(text)
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
        manifest["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
        text = json.dumps(manifest)
    except (ValueError, AttributeError, RecursionError):
        pass  # written as it is
    replace_bytes(path, text.encode("utf-8", "surrogatepass"))


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes a file in place of one that other copies share."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _rewrite_json(path: Path, changes: list[list[Any]]) -> None:
    text = edited(json.loads(path.read_text()), changes)
    replace_bytes(path, text.encode("utf-8", "surrogatepass"))


def _rewrite_lines(path: Path, changes: list[list[Any]]) -> None:
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    text = edited(lines, changes)
    try:
        text = "".join(json.dumps(line) + "\n" for line in json.loads(text))
    except (ValueError, RecursionError, TypeError):
        text = text.strip("[]").replace("}, {", "}\n{")
    replace_bytes(path, text.encode("utf-8", "surrogatepass"))


def _change_bytes(folder: Path, change: list[Any]) -> None:
    path = folder / change[0]
    if len(change) == 2:
        replace_bytes(path, change[1])
        return
    data = bytearray(path.read_bytes())
    data[change[1] % len(data)] ^= 1 << change[2]
    replace_bytes(path, bytes(data))


def _change_file(path: Path, what: str, room: Room) -> None:
    """Makes a fault of the file itself."""
    data = path.read_bytes() if path.is_file() else b"x"
    mode = 0o644
    if path.exists() or path.is_symlink():
        remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if what in ("empty", "half", "longer", "unreadable", "added"):
        content = {"empty": b"", "half": data[: len(data) // 2], "longer": data + b"\0"}
        path.write_bytes(content.get(what, data))
        mode = 0 if what == "unreadable" else mode
        path.chmod(mode)
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "link out":
        path.symlink_to(room.elsewhere / "secret.txt")
    elif what == "link to device":
        path.symlink_to("/dev/zero")
    elif what == "link to itself":
        path.symlink_to(path.name)
    elif what == "dangling link":
        path.symlink_to("missing")
    elif what == "linked folder":
        path.symlink_to(room.elsewhere)


def _is_ours(error: Exception) -> bool:
    return isinstance(error, LameError | RefusedError)
