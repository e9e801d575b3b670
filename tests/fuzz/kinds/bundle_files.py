"""Bundles as hostile input: their JSON files, golden vectors, bytes and files."""

from __future__ import annotations

import io
import json
from functools import cache
from random import Random
from typing import Any

import numpy as np

from fuzz.case import Case
from fuzz.kinds.base import TINY_BUNDLE
from fuzz.kinds.bundle_copies import BundleCopy
from fuzz.kinds.edits import edits
from fuzz.media.damage import damaged
from fuzz.outcome import WrongError

ALL_CALLS = ["load", "verify", "info"]
LEFTOVERS = (
    ".gitattributes", "README.md", ".cache/huggingface/download/a.metadata", ".git/config",
    ".DS_Store", "desktop.ini", ".gitignore", "graphs/.DS_Store", ".cache/huggingface/.gitignore",
    "LICENSE", "Thumbs.db",
)  # fmt: skip
"""Files that a hub, a clone or a desktop leaves in a folder; they may stay."""
STRANGERS = (
    "extra.txt",
    "graphs/extra.onnx",
    "golden/extra.png",
    "engines/x/build.json",
    "a\x1b[31m.txt",
    "x.py",
)


@cache
def parsed(name: str) -> Any:
    """Returns the content of a JSON file of the tiny bundle; it must not be changed."""
    text = (TINY_BUNDLE / name).read_text(encoding="utf-8")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.split("\n") if line]
    return json.loads(text)


@cache
def file_names() -> tuple[str, ...]:
    """Returns the files of the tiny bundle in a fixed order."""
    paths = sorted(path for path in TINY_BUNDLE.rglob("*") if path.is_file())
    return tuple(path.relative_to(TINY_BUNDLE).as_posix() for path in paths)


class Bundles(BundleCopy):
    """Changes manifest, certificate and golden files, mostly with hashes made anew."""

    name = "bundles"
    share = 2.0
    slice_cases = 60

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        case: Case = {"rehash": random.random() < 0.85, "calls": ALL_CALLS}
        target = random.choice(("manifest", "golden", "arrays", "files", "parity"))
        if target == "manifest":
            changes = edits(random, parsed("manifest.json"))
            key = "manifest" if case["rehash"] else "json"
            case[key] = changes if case["rehash"] else {"manifest.json": changes}
            # what the manifest says of the model may be something else now
            case["json"] = case.get("json", {"manifest.json": []})
        elif target == "golden":
            case["lines"] = edits(random, parsed("golden/inputs.jsonl"))
        elif target == "arrays":
            case["bytes"] = [["golden/embeddings.npy", _array(random)]]
        elif target == "parity":
            case["json"] = {"parity.json": edits(random, parsed("parity.json"))}
        else:
            name = random.choice((*LEFTOVERS, *STRANGERS))
            what = random.choice(
                ("added", "pipe", "link out", "dangling link", "folder", "linked folder")
            )
            case["files"] = [[what, name]]
        return case


class Certificates(BundleCopy):
    """Takes away what `verify` compares; it must then fail."""

    name = "certificates"
    share = 0.5
    slice_cases = 30

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        count = len(parsed("golden/inputs.jsonl"))
        rows = sorted(random.sample(range(count), random.randrange(count)))
        case: Case = {"rehash": True, "calls": ["verify"], "refused": ["verify"]}
        action = random.choice(("fewer", "turned", "no rows", "other role"))
        embeddings = np.load(TINY_BUNDLE / "golden/embeddings.npy")
        if action == "fewer":
            gone = [row for row in range(count) if row not in rows]
            case["lines"] = [["delete", [row], None] for row in reversed(gone)]
            case["bytes"] = [["golden/embeddings.npy", _npy(embeddings[rows])]]
        elif action == "turned":
            row = random.randrange(count)
            embeddings[row] = -embeddings[row]
            case["bytes"] = [["golden/embeddings.npy", _npy(embeddings)]]
        elif action == "no rows":
            case["json"] = {"parity.json": [["set", ["rows"], random.choice(([], None, {}))]]}
        else:
            case["lines"] = [
                ["set", [random.randrange(count), "ids"], random.choice(([], [1], None))]
            ]
        return case


class Contracts(BundleCopy):
    """Changes the contract, with hashes made anew."""

    name = "contracts"
    share = 1.5
    slice_cases = 200

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        changes = edits(random, parsed("contract.json"))
        return {"rehash": True, "json": {"contract.json": changes}, "calls": ["load"]}


class Flips(BundleCopy):
    """Flips one bit of a file without new hashes; loading or verifying must be refused."""

    name = "flips"
    share = 0.5
    slice_cases = 30

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        name = random.choice(file_names())
        size = (TINY_BUNDLE / name).stat().st_size
        change = [name, random.randrange(size), random.randrange(8)]
        used = name.startswith(("graphs/", "contract", "tokenizer", "parity"))
        refused = ["load", "verify"] if used else ["verify"]
        return {"bytes": [change], "calls": ["load", "verify"], "refused": refused}


class Files(BundleCopy):
    """Makes faults of files: missing, empty, cut, unreadable, a pipe, a link in a file's place."""

    name = "files"
    share = 0.5
    slice_cases = 40

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        faults = (
            "missing", "empty", "half", "longer", "unreadable", "folder", "pipe", "link out",
            "link to device", "link to itself", "dangling link",
        )  # fmt: skip
        if random.random() < 0.2:
            name = random.choice(LEFTOVERS)
            # what others leave must not get in the way
            return {"files": [["added", name]], "calls": ["load", "verify"], "accepted": True}
        if random.random() < 0.1:
            name = random.choice(("extra.txt", "graphs/extra.onnx", "golden/extra.png"))
            what = random.choice(("added", "pipe", "link out", "link to device", "dangling link"))
            return {"files": [[what, name]], "calls": ["load", "verify"], "refused": ["verify"]}
        change = [random.choice(faults), random.choice(file_names())]
        if (TINY_BUNDLE / change[1]).stat().st_size == 0:
            change[0] = "missing"
        return {"files": [change], "calls": ["load", "verify", "info"], "refused": ["verify"]}

    def run(self, case: Case) -> None:
        """Runs the calls; leftovers must not be refused."""
        try:
            super().run(case)
        except Exception as error:
            if case.get("accepted"):
                raise WrongError(f"refused for a leftover: {error}") from None
            raise


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _array(random: Random) -> bytes:
    """Returns the bytes of an array that does not belong there, or damaged ones."""
    embeddings = np.load(TINY_BUNDLE / "golden/embeddings.npy")
    nan = embeddings.copy()
    nan[random.randrange(len(nan)), 0] = random.choice((np.nan, np.inf, 1e30))
    arrays = (
        embeddings[:0], embeddings[:, :8], embeddings[None], embeddings.astype(np.float64),
        embeddings.astype(np.int8), embeddings.astype(complex), nan, np.float32(1),
        embeddings.astype("U8")[:, :2], np.zeros(3, "f4,f4"),
    )  # fmt: skip
    choice = random.random()
    if choice < 0.4:
        return _npy(random.choice(arrays))
    if choice < 0.6:
        shape = random.choice(
            ("(10000000000, 64)", "(-1, 64)", "(2, 2)", "()", "(0,)", "(1,)" * 100, "[1]")
        )
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
        header = header.ljust(118 + len(header) // 64 * 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    if choice < 0.7:
        buffer = io.BytesIO()
        np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        return buffer.getvalue()
    return damaged(random, _npy(embeddings[:4]), b"PK\x03\x04" + bytes(40))
