"""Names stay inside a bundle, only regular files are read, and leftovers of others are named."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lame_runtime import BundleError, Encoder, LameError
from lame_runtime.__main__ import main
from lame_runtime.bundle import leftovers, members
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.certificate import read_certificate
from lame_runtime.bundle.golden import read_golden
from lame_runtime.bundle.manifest import (
    GraphFiles,
    ModelFacts,
    build_manifest,
    read_manifest,
    sha256_file,
)
from lame_runtime.bundle.members import name_problem, read_member
from lame_runtime.contract import Contract
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.parity.verify import report, table, verify
from tampering import copy_tiny, rehash

PICTURE = "golden/images/0000.png"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Returns a copy of the tiny bundle."""
    return copy_tiny(tmp_path / "tiny")


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "golden/../../secret",
        "/etc/passwd",
        "//host/share",
        "C:\\secret",
        "C:secret",
        "file:secret",
        "graphs\\a.onnx",
        "a//b",
        "a/./b",
        "",
        ".",
        "a/",
        "a.",
        "a ",
        "nul",
        "golden/CON.png",
        "com1",
        "a\nb",
        "a\x00",
        "\x1b[2J",
        "\ud800",
        "x" * 201,
        "/".join("x" * 100 for _ in range(11)),
    ],
)
def test_a_name_that_is_no_file_of_a_bundle_is_refused(name: str, tmp_path: Path) -> None:
    """The same names are refused on every system, in one short line."""
    assert name_problem(name)
    (tmp_path / "bundle").mkdir()
    with pytest.raises(BundleError) as refusal:
        read_member(tmp_path / "bundle", name, 100)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 400


def test_names_that_the_exporter_writes_are_allowed() -> None:
    """Graphs, weights and pictures, also with other scripts in their names."""
    for name in ("graphs/encoder.int8-cpu.onnx.data", "golden/images/0012-1.png", "数字/a b.png"):
        assert name_problem(name) is None


def test_a_link_that_leads_out_is_refused(tiny: Path, tmp_path: Path) -> None:
    """Neither a file nor a folder may be a link to another place, whatever its hash is."""
    (tmp_path / "elsewhere").mkdir()
    outside = shutil.move(tiny / PICTURE, tmp_path / "elsewhere/0000.png")
    (tiny / PICTURE).symlink_to(outside)
    with pytest.raises(BundleError, match=r"0000\.png: is a link that leads out of the bundle"):
        verify(tiny, ["fp32"])
    shutil.move(tiny / "graphs", tmp_path / "elsewhere/graphs")
    (tiny / "graphs").symlink_to(tmp_path / "elsewhere/graphs")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Encoder.load(tiny)


def test_without_the_check_a_link_out_of_the_bundle_is_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with the guard taken out, the file elsewhere is taken for the bundle's."""
    outside = shutil.move(tiny / PICTURE, tmp_path / "elsewhere.png")
    (tiny / PICTURE).symlink_to(outside)
    monkeypatch.setattr(members, "_is_below", lambda *_: True)
    assert read_member(tiny, PICTURE, 1 << 20) == (tmp_path / "elsewhere.png").read_bytes()


def test_a_link_inside_the_bundle_and_a_circle(tiny: Path) -> None:
    """A link to another file of the bundle is read; links in a circle are refused."""
    (tiny / "golden/images/0003.png").unlink()
    (tiny / "golden/images/0003.png").symlink_to("0009.png")  # an equal picture
    Bundle.open(tiny).check_golden()
    (tiny / PICTURE).unlink()
    (tiny / PICTURE).symlink_to("0000.png")
    with pytest.raises(BundleError, match=r"0000\.png: cannot be read"):
        Bundle.open(tiny).check_golden()


def test_the_cache_of_a_model_hub_is_a_bundle(tmp_path: Path) -> None:
    """Its files are links from `snapshots/REVISION` into `blobs`, which also hold leftovers."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/0123"
    source = copy_tiny(tmp_path / "source")
    (source / "README.md").write_text("a model")
    blobs.mkdir()
    for number, path in enumerate(sorted(source.rglob("*"))):
        if path.is_file():
            target = snapshot / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(blobs / f"{number}")
            target.symlink_to(os.path.relpath(blobs / f"{number}", target.parent))
    bundle = Bundle.open(snapshot)
    assert bundle.check_all() > 40
    assert bundle.leftovers() == ["README.md"]
    (tmp_path / "secret").write_text("secret")
    (snapshot / "LICENSE").symlink_to("../../secret")
    with pytest.raises(BundleError, match="LICENSE: is a link, and not part of the bundle"):
        bundle.leftovers()


@pytest.mark.parametrize(
    "name", ["manifest.json", "contract.json", "tokenizer.json", "parity.json", PICTURE]
)
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(name: str, tiny: Path) -> None:
    """Nothing waits for a writer; the message names the file and says that it is a pipe."""
    (tiny / name).unlink()
    os.mkfifo(tiny / name)
    with pytest.raises(BundleError, match=rf"{Path(name).name}: .*is a pipe"):
        verify(tiny)
    with pytest.raises(OSError, match="is a pipe"):
        sha256_file(tiny / name)


def test_a_file_that_may_not_be_read_is_one_line(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command exits with 2 and names the file, the reason and the remedy."""
    original = members.open_regular

    def refuse(path: Path) -> object:
        if path.name in forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    # tests may run as root, who may read everything
    monkeypatch.setattr(members, "open_regular", refuse)
    for name in ("manifest.json", "contract.json", "parity.json", "encoder.fp32.onnx", "0000.png"):
        forbidden = {name}
        assert main(["verify", str(tiny)]) == 2
        error = capsys.readouterr().err
        assert f"{name}: may not be read (Permission denied); give this account" in error
        assert error.count("\n") == 1
    forbidden = {"vision.fp32.onnx"}
    assert main(["info", str(tiny)]) == 2


def test_a_file_with_holes_is_not_read_for_hours(tiny: Path) -> None:
    """A file may claim any size without taking space; the size is refused before it is read."""
    with (tiny / PICTURE).open("wb") as file:
        file.truncate(members.MAX_FILE_BYTES + 1)
    with pytest.raises(BundleError, match=r"0000\.png: has [\d,]+ bytes, too many"):
        Bundle.open(tiny).check_golden()


LEFT = {
    ".git/HEAD": ".git/",
    ".cache/huggingface/download/contract.json.metadata": ".cache/",
    ".huggingface/a": ".huggingface/",
    "__MACOSX/._tiny": "__MACOSX/",
    **{
        name: name
        for name in (
            ".gitattributes", "graphs/.gitattributes", ".gitignore", "README.md", "readme.md",
            "LICENSE", ".git", ".DS_Store", "golden/images/.DS_Store", "desktop.ini",
            "golden/Thumbs.db", "._contract.json", "graphs/._vision.fp32.onnx",
        )
    },
}  # fmt: skip
"""Files that others leave, and the name that stands for them."""


@pytest.mark.parametrize("name", LEFT)
def test_what_hubs_clones_and_desktops_leave_is_named_and_never_read(
    name: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hashes still hold, and no file is opened but those that the manifest lists."""
    path = tiny / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    opened: list[Path] = []
    original = members.open_regular

    def record(path: Path) -> object:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(members, "open_regular", record)
    bundle = Bundle.open(tiny)
    assert bundle.check_all() > 40
    assert bundle.leftovers() == [LEFT[name]]
    assert len(opened) > 40
    assert path not in opened


def test_verify_notes_leftovers(tiny: Path) -> None:
    """The note stands below the table and in the JSON report."""
    (tiny / "README.md").write_text("x")
    (tiny / ".git").mkdir()
    rows = verify(tiny, ["fp32"])
    note = "not part of the bundle, neither hashed nor read: .git/, README.md"
    assert table(rows).endswith(note)
    assert report(rows)["notes"] == [note]
    assert report(rows)["passed"]


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("graphs/extra.onnx", Path.touch, "is not part of the bundle"),
        ("golden/README.md", Path.touch, "is not part of the bundle"),
        (".gitattributes.onnx", Path.touch, "is not part of the bundle"),
        ("manifest.json.bak", Path.touch, "is not part of the bundle"),
        ("a\x1b[2J", Path.touch, "is not part of the bundle"),
        ("graphs/x.data", lambda path: path.symlink_to("/nowhere"), "is a link, and not part"),
        ("graphs/more", lambda path: path.symlink_to("/usr"), "is a link, and not part"),
        ("README.md", lambda path: path.symlink_to("contract.json"), "is a link, and not part"),
        (".git", lambda path: path.symlink_to("/usr"), "is a link, and not part"),
        ("engines", lambda path: path.symlink_to("/usr"), "is a link, and not part"),
        ("golden/pipe", os.mkfifo, "is a pipe, a socket or a device"),
        (".DS_Store", os.mkfifo, "is a pipe, a socket or a device"),
        ("golden/socket", _socket, "is a pipe, a socket or a device"),
    ],
)
def test_anything_else_in_a_bundle_is_refused(
    name: str,
    make: Callable[[Path], object],
    message: str,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other files, links and pipes fail `verify`, whatever they are called."""
    monkeypatch.chdir(tiny)  # the path of a socket may have about 100 bytes
    make(tiny / name)
    with pytest.raises(BundleError, match=f"{message}.*move it elsewhere") as refusal:
        verify(tiny)
    assert str(refusal.value).isprintable()


def test_without_the_walk_an_additional_file_passes(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with the walk taken out, a file that nobody certified is not noticed."""
    (tiny / "graphs/extra.onnx").touch()
    with pytest.raises(BundleError, match="not part of the bundle"):
        Bundle.open(tiny).check_all()
    monkeypatch.setattr(leftovers, "_entries", lambda *_: [])
    assert Bundle.open(tiny).check_all() > 40


def test_plans_are_not_leftovers(tiny: Path) -> None:
    """`engines/` is left to the checks of plans."""
    (tiny / "engines/fp16.latency.0").mkdir(parents=True)
    (tiny / "engines/fp16.latency.0/vision.plan").touch()
    assert Bundle.open(tiny).leftovers() == []


@pytest.mark.parametrize(
    ("name", "make"),
    [
        (".DS_Store", Path.touch),
        ("graphs/link.onnx", lambda path: path.symlink_to("/nowhere")),
        ("graphs/pipe.onnx", os.mkfifo),
        ("graphs/a\nb.onnx", Path.touch),
    ],
)
def test_the_exporter_hashes_regular_files_alone(
    name: str, make: Callable[[Path], object], tmp_path: Path
) -> None:
    """A manifest is not written over what every reader would refuse."""
    (tmp_path / "graphs").mkdir()
    (tmp_path / "contract.json").write_text("{}")
    facts = ModelFacts("qwen2_vl", 16, 4, 100, "lame-export 0")
    graphs = {"fp32": GraphFiles("graphs/a.onnx", "graphs/a.onnx")}
    assert set(build_manifest(tmp_path, facts, graphs).files) == {"contract.json"}
    make(tmp_path / name)
    with pytest.raises(BundleError):
        build_manifest(tmp_path, facts, graphs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graphs": {}}, "graphs has 0 entries"),
        ({"files": {}}, "files has 0 entries"),
        ({"graphs": {"\x1b[2J": {"vision": "a", "encoder": "a"}}}, "graphs: a key is"),
        ({"graphs": {"fp32": {"vision": "../a", "encoder": "a"}}}, "is outside the bundle"),
        ({"graphs": {"fp32": {"vision": 5, "encoder": "a"}}}, "graphs.fp32.vision must be str"),
        ({"files": {"a\\b": "0" * 64}}, "holds a character that no file"),
        ({"files": {"nul.png": "0" * 64}}, "is the name of a device"),
        ({"files": {"a": "0" * 63}}, "files.a is .*must match"),
        ({"files": {"x" * 5000: "0" * 64}}, "a key has 5,000 characters"),
        ({"format_version": 1.0}, "format_version 1.0 is not known"),
        ({"kind": ["\x1b"]}, "kind .* is not 'lame-bundle'"),
    ],
)
def test_a_manifest_that_misleads_is_refused(
    change: dict[str, object], message: str, tiny: Path
) -> None:
    """One printable line, although the manifest's own hash was computed anew."""
    rehash(tiny, lambda manifest: manifest.update(change))
    with pytest.raises(BundleError, match=message) as refusal:
        read_manifest(tiny)
    assert str(refusal.value).isprintable()


def test_a_key_that_occurs_twice_is_refused(tiny: Path) -> None:
    """Python takes the last of two equal keys, other readers the first."""
    text = (tiny / "manifest.json").read_text()
    (tiny / "manifest.json").write_text(text.replace("{", '{"kind": "lame-bundle", ', 1))
    with pytest.raises(BundleError, match="the key 'kind' occurs twice"):
        read_manifest(tiny)
    assert json.loads((tiny / "manifest.json").read_text())["kind"] == "lame-bundle"


def damages(folder: Path) -> Iterator[Callable[[], object]]:
    """Yields calls that fail, on copies of the tiny bundle below a path of thousands of letters."""
    yield lambda: Encoder.load(folder / "missing")
    yield lambda: main(["info", str(folder / ("x" * 200))])
    yield lambda: main(["embed", "x" * 5000, "--text", "a", "-o", "v"])
    yield lambda: Encoder.load(folder, graph="none")
    for name in ("contract.json", "tokenizer.json", "parity.json", "golden/inputs.jsonl"):
        yield lambda name=name: read_member(folder, name, 1)
        (folder / name).rename(folder / "aside")
        yield lambda: main(["info", str(folder)])
        yield lambda: Bundle(folder, read_manifest(folder)).golden()
        (folder / name).mkdir()
        yield lambda: main(["embed", str(folder), "--text", "a", "-o", "v"])
        (folder / name).rmdir()
        (folder / name).write_text("{}")
        yield lambda: Bundle.open(folder).check_all()
        yield lambda: Contract.load(folder / "contract.json")
        yield lambda: TextTokenizer(folder / "tokenizer.json")
        yield lambda: read_certificate(folder)
        yield lambda: read_golden(folder)
        (folder / name).unlink()
        (folder / "aside").rename(folder / name)
    (folder / "graphs").mkdir(exist_ok=True)
    for path in folder.rglob("*.onnx"):
        path.write_bytes(b"x")
    yield lambda: Encoder.load(folder)
    yield lambda: Encoder.load(folder, check_hashes=False)
    (folder / "other").touch()
    yield lambda: leftovers.find_leftovers(folder, [])
    for text in ("{}", '{"format_version": 1}', "[", '{"format_version": 1, "kind": "x"}'):
        (folder / "manifest.json").write_text(text)
        yield lambda: read_manifest(folder)
    (folder / "manifest.json").unlink()
    yield lambda: read_manifest(folder)
    (folder / "model.safetensors").touch()
    yield lambda: read_manifest(folder)


def test_a_long_path_is_cut_in_every_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path.joinpath(*["y" * 200] * 15, "bundle")
    copy_tiny(folder)
    count = 0
    for call in damages(folder):
        try:
            call()
        except LameError as error:
            message = str(error)
            count += 1
        else:
            message = capsys.readouterr().err
        assert len(message) < 500, message
        assert "y" * 80 not in message
    assert count > 20
