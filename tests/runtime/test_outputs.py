"""Tests of outputs that would replace what the same command reads, and of errors of the disk."""

from __future__ import annotations

import errno
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lame_runtime import Encoder, InputError, StorageError
from lame_runtime.cli.main import main
from lame_runtime.cli.system import outputs
from lame_runtime.contract import Preparer
from lame_runtime.files.atomic import atomic_folder, atomic_path, atomic_text
from PIL import Image

BUNDLE = Path(__file__).parent.parent.parent / "examples/tiny-bundle"
EMBED = [sys.executable, "-m", "lame_runtime", "embed", str(BUNDLE)]
PICTURE = io.BytesIO()
Image.new("RGB", (40, 30), (200, 10, 10)).save(PICTURE, "PNG")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a bundle, a folder of pictures, a PDF, JSONL and links."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLE, "b")
    Path("pics").mkdir()
    for name in ("pics/a.png", "j.png"):
        Path(name).write_bytes(PICTURE.getvalue())
    Image.open(PICTURE).save("x.pdf")
    for name, line in {
        "image": {"image": "j.png"},
        "frames": {"video": ["j.png", "./j.png"], "fps": 1},
        "content": {"content": [{"image": [str(tmp_path / "j.png")]}]},
        "page": {"image": "x.pdf#page=1"},
    }.items():
        Path(f"{name}.jsonl").write_text(f'"a"\n{json.dumps(line)}\n')
    Path("link").symlink_to("pics")
    Path("link.png").symlink_to("j.png")
    Path("to-bundle").symlink_to("b")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


REPLACED = [
    ["embed", "b", "pics", "-o", "pics/a.png"],
    ["embed", "b", "link", "-o", "pics/a.png"],
    ["embed", "b", "pics", "-o", "link/../pics/a.png"],
    ["embed", "b", "x.pdf", "-o", "x.pdf"],
    ["embed", "b", "x.pdf#page=1", "-o", "./x.pdf"],
    ["embed", "b", "j.png", "-o", "link.png"],
    ["embed", "b", "image.jsonl", "-o", "image.jsonl"],
    ["embed", "b", "image.jsonl", "-o", "j.png"],
    ["embed", "b", "image.jsonl", "-o", "link.png"],
    ["embed", "b", "frames.jsonl", "-o", "j.png"],
    ["embed", "b", "content.jsonl", "-o", "j.png"],
    ["embed", "b", "page.jsonl", "-o", "x.pdf"],
    ["embed", "b", "--text", "a", "-o", "b/contract.json"],
    ["embed", "b", "--text", "a", "-o", "b/new.npy"],
    ["embed", "to-bundle", "--text", "a", "-o", "b/golden/new.npy"],
    ["embed", "b", "--text", "a", "-o", "to-bundle/new.npy"],
    ["verify", "b", "--graph", "fp32", "-o", "b/contract.json"],
    ["verify", "b", "--graph", "fp32", "--junit", "b/report.xml"],
    ["verify", "b", "--graph", "fp32", "-o", "s", "--junit", "./s"],
]


@pytest.mark.parametrize("command", REPLACED, ids=" ".join)
def test_an_output_replaces_nothing_that_the_command_reads(
    command: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by another spelling, through links, and as a name in JSONL."""
    before = contents(place)
    assert main(command) == 2
    assert contents(place) == before
    message = capsys.readouterr().err
    assert "choose another file" in message or "choose two files" in message
    assert len(message) < 400


@pytest.mark.parametrize("command", [REPLACED[0], REPLACED[7], REPLACED[12]], ids=" ".join)
def test_an_input_would_be_replaced(
    command: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the comparison of files, the commands replace what they read."""
    before = contents(place)
    monkeypatch.setattr(outputs, "is_same_file", lambda *_: False)
    assert main(command) == 0
    assert contents(place) != before


def test_stdin_from_a_file_is_an_input_too(place: Path) -> None:
    Path("rows").write_text('"a"\n')
    for name in ("-", "/dev/stdin"):
        with Path("rows").open() as rows:
            done = subprocess.run(
                [*EMBED, name, "-o", "rows"], stdin=rows, capture_output=True, check=False
            )
        assert done.returncode == 2, done
        assert b"is also an input" in done.stderr
    assert (place / "rows").read_text() == '"a"\n'


def test_other_outputs_are_written(place: Path) -> None:
    """Beside the inputs and the bundle, in the folder of plans, over an earlier result."""
    for _ in range(2):
        assert main(["embed", "b", "pics", "image.jsonl", "-o", "pics/v.npy"]) == 0
        assert main(["embed", "b", "--text", "a", "--engines", ".", "-o", "v.npy"]) == 0
    assert main(["embed", "b", "--text", "a", "--engines", ".", "-o", "pics/new.npy"]) == 2


def test_a_bundle_of_a_hub_is_left_alone(place: Path) -> None:
    """The links of a snapshot lead to files that an output must not replace either."""
    snapshot, blobs = place / "hub/snapshots/1", place / "hub/blobs"
    shutil.copytree(BUNDLE, snapshot)
    blobs.mkdir()
    (snapshot / "contract.json").rename(blobs / "0")
    (snapshot / "contract.json").symlink_to("../../blobs/0")
    assert main(["embed", str(snapshot), "--text", "a", "-o", str(blobs / "0")]) == 2
    assert main(["embed", str(snapshot), "--text", "a", "-o", "v.npy"]) == 0


def test_only_errors_of_writing_are_blamed_on_the_output(tmp_path: Path) -> None:
    """A file that could not be read is not the output; a full disk is."""
    for make in (atomic_path, atomic_folder):
        for error in (
            OSError(errno.EIO, "Input/output error"),
            OSError(errno.EIO, "Input/output error", "photo.png"),
            PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "other")),
        ):
            with pytest.raises(OSError, match=r"Input/output|Permission") as caught:
                fail(make, tmp_path / "v", error)
            assert caught.value is error
        with pytest.raises(StorageError, match="v: cannot be written"):
            fail(make, tmp_path / "v", OSError(errno.ENOSPC, "No space left on device"))
        with (
            pytest.raises(StorageError, match="v: cannot be written"),
            make(tmp_path / "v") as fresh,
        ):
            (fresh / "none/a").write_text("a")
    assert list(tmp_path.iterdir()) == []


def fail(make: Callable[[Path], Any], target: Path, error: OSError) -> None:
    with make(target):
        raise error


def test_a_disk_that_fails_while_it_is_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(StorageError, match=r"v: cannot be written \(Input/output error\)"):
        atomic_text(tmp_path / "v", "text")
    monkeypatch.setattr("numpy.save", broken)
    assert main(["embed", str(BUNDLE), "--text", "a", "-o", str(tmp_path / "v")]) == 2


def test_an_input_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its number and file, and the output is not at fault."""

    def read(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Preparer, "__call__", read)
    (tmp_path / "a.png").write_bytes(PICTURE.getvalue())
    target = str(tmp_path / "v.npy")
    assert main(["embed", str(BUNDLE), str(tmp_path / "a.png"), "-o", target]) == 2
    message = capsys.readouterr().err
    assert "a.png: cannot be read (Input/output error)" in message
    assert "v.npy" not in message
    with Encoder.load(BUNDLE, threads=1) as encoder:
        frames = {"video": ["b.png"], "text": "a"}
        for item, name in ((frames, r"b\.png"), ("a", "the input"), (Path("c.png"), r"c\.png")):
            with pytest.raises(InputError, match=f"input 0: {name}: cannot be read"):
                encoder.encode([item])  # type: ignore[list-item]
