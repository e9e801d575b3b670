"""Tests of the command lines in pipes, logs and scripts: streams, signals, full disks."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lame_runtime import InputError, StorageError
from lame_runtime.cli import sources
from lame_runtime.cli.command_line import run_command
from lame_runtime.cli.grammar import ProgramParser, add_command
from lame_runtime.cli.main import main
from lame_runtime.cli.sources import read_sources
from lame_runtime.files import atomic
from lame_runtime.files.atomic import atomic_folder, atomic_path, atomic_text
from PIL import Image

BUNDLE = Path(__file__).parent.parent.parent / "examples/tiny-bundle"
EMBED = [sys.executable, "-m", "lame_runtime", "embed", str(BUNDLE)]
PICTURE = io.BytesIO()
Image.new("RGB", (40, 30), (200, 10, 10)).save(PICTURE, "PNG")


def program(work: Callable[[argparse.Namespace], int]) -> ProgramParser:
    """Returns a program with one command."""
    parser = ProgramParser(prog="prog")
    add_command(parser.add_subparsers(), "work", "do work", work, "x")
    return parser


@pytest.mark.parametrize(
    "target", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/null"]
)
@pytest.mark.parametrize(
    "command", [["embed", "--text", "a", "-o"], ["verify", "-o"], ["verify", "--junit"]]
)
def test_an_output_that_is_no_file_is_refused_by_name(
    command: list[str], target: str, tmp_path: Path
) -> None:
    """No file called `-` is written, and no error is about a missing folder."""
    name, *rest = command
    arguments = [sys.executable, "-m", "lame_runtime", name, str(BUNDLE), *rest, target]
    if target == "/dev/null" and name == "verify":
        pytest.skip("it is noticed after the check, by the function that embed calls first")
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert target in last
    assert "No such file" not in last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module", ["lame_runtime.cli.main", "lame_training.__main__", "lame_export.cli.main"]
)
def test_every_program_refuses_to_write_to_its_stdout(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every argument that is a path refuses `-`, and prints what was typed without obeying it."""
    import importlib

    commands = {
        "lame_runtime.cli.main": ["embed", "b", "--text", "a", "-o"],
        "lame_training.__main__": ["run", "digits-tiny", "--output"],
        "lame_export.cli.main": ["bundle", "checkpoint"],
    }
    for text in ("-", ""):
        with pytest.raises(SystemExit) as caught:
            importlib.import_module(module).main([*commands[module], text])
        assert caught.value.code == 2
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["\x1b]0;title\x07" + "x" * 5000])
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert len(error) < 5000


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_is_no_data(mark: bytes, tmp_path: Path) -> None:
    """It is skipped on stdin and in files, and what is not UTF-8 is named by its line."""
    (tmp_path / "a.jsonl").write_bytes(mark + b'"fifteen"\r\n\n{"text": "seven"}')
    items = list(read_sources([str(tmp_path / "a.jsonl")], []))
    assert [item.text for item in items] == ["fifteen", "seven"]
    command = [*EMBED, "-", "-o", "v.npy"]
    subprocess.run(command, cwd=tmp_path, input=mark + b'"seven"\n', check=True)
    (tmp_path / "a.jsonl").write_bytes(mark + b'"a"\n"\xff"\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: not UTF-8"):
        list(read_sources([str(tmp_path / "a.jsonl")], []))


@pytest.mark.parametrize("line", ["[" * 100_000, "NaN", "9" * 5000, '"\0"', "{", "nul\x1bl"])
def test_a_line_that_is_no_json_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"fine"\n' + line)
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: ") as caught:
        list(read_sources([str(tmp_path / "a.jsonl")], []))
    assert len(str(caught.value)) < 400


def test_a_line_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless line is not read to its end, which would fill the memory."""
    monkeypatch.setattr(sources, "MAX_LINE", 10)
    (tmp_path / "a.jsonl").write_text('"a"\n"01234567"\n')
    assert len(list(read_sources([str(tmp_path / "a.jsonl")], []))) == 2
    (tmp_path / "a.jsonl").write_text('"a"\n"012345678"\n')
    with pytest.raises(InputError, match="line 2: longer than 10 bytes"):
        list(read_sources([str(tmp_path / "a.jsonl")], []))


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    """As an argument, in a folder, as JSONL and as a PDF; also behind a link."""
    (tmp_path / "d").mkdir()
    for name in ("pipe.png", "d/a.png", "pipe.jsonl", "pipe.pdf", "pipe.mp4", "pipe"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "link.png").symlink_to("pipe.png")
    for name in ("pipe.png", "d", "pipe.jsonl", "pipe.pdf", "pipe.mp4", "pipe", "link.png"):
        with pytest.raises(StorageError, match="is a pipe, not a regular file"):
            list(read_sources([str(tmp_path / name)], []))
    for name in ("zero.jsonl", "/dev/zero"):
        with pytest.raises(StorageError, match="is a device, not a regular file"):
            list(read_sources([name if name[0] == "/" else str(tmp_path / name)], []))


def test_a_pipe_would_be_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the check, the pipe is passed on to be read as a picture."""
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr(sources, "_opened", lambda _: io.BytesIO())
    assert len(list(read_sources([str(tmp_path / "pipe.png")], []))) == 1


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="there is no /dev/fd here")
@pytest.mark.parametrize(
    ("made", "count"),
    [("cat photo.png", 1), ("cat rows.jsonl", 3), ('printf \'\\xef\\xbb\\xbf"a"\\n"b"\'', 2)],
)
def test_what_a_shell_hands_over_is_read(made: str, count: int, tmp_path: Path) -> None:
    """`<(…)` may be a picture or JSONL, with the vectors of a file."""
    (tmp_path / "photo.png").write_bytes(PICTURE.getvalue())
    (tmp_path / "rows.jsonl").write_text('"a"\n"b"\n{"image": "photo.png"}\n')
    for source in (f"<({made})", f"/dev/stdin < <({made})"):
        command = f"{' '.join(EMBED)} {source} -o v.npy"
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
        assert len(np.load(tmp_path / "v.npy")) == count
    if count != 2:
        name = "photo.png" if count == 1 else "rows.jsonl"
        assert (
            main(["embed", str(BUNDLE), str(tmp_path / name), "-o", str(tmp_path / "w.npy")]) == 0
        )
        assert np.allclose(np.load(tmp_path / "v.npy"), np.load(tmp_path / "w.npy"), atol=1e-6)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_leaves_nothing(number: int, code: int, tmp_path: Path) -> None:
    """The temporary file is removed, and the exit code is that of shells for the signal."""
    (tmp_path / "out").mkdir()
    with subprocess.Popen(
        [*EMBED, "-", "-o", "out/v.npy"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        end = time.monotonic() + 60
        while not list((tmp_path / "out").iterdir()) and time.monotonic() < end:
            time.sleep(0.02)
        running.send_signal(number)
        _, error = running.communicate(timeout=60)
    assert running.returncode == code
    assert error == "stopped; nothing was written\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_handlers_of_others_are_left_alone() -> None:
    """Handlers of an embedding process stay, ignored signals stay ignored, and ours are removed."""
    seen: list[object] = []

    def note(_: argparse.Namespace) -> int:
        seen[:] = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)]
        return 0

    def own(*_: object) -> None:
        """Belongs to the embedding process."""

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGTERM, own)
        # as `nohup` does
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert run_command(program(note), ["work"], "") == 0
        assert seen == [own, signal.SIG_IGN]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert run_command(program(note), ["work"], "") == 0
        assert callable(seen[0])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_forked_worker_ends_by_the_signal() -> None:
    """A worker inherits the handler, but must not print that the command was stopped."""

    def work(_: argparse.Namespace) -> int:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            # a signal that comes before Python has finished the fork would be dropped
            os.write(writer, b"ready")
            time.sleep(60)
            os._exit(0)
        os.read(reader, 5)
        os.kill(pid, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert run_command(program(work), ["work"], "") == 1
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    """A printed report that cannot be written is an error, and no traceback at exit."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "lame_runtime", "info", str(BUNDLE)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: the standard output cannot be written (No space left on device)\n"
    )


def test_logs_and_tables_do_not_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names with escape sequences are printed escaped, in results, notes and warnings."""
    folder = tmp_path / "\x1b[31mred"
    folder.mkdir()
    (folder / "photo.png").write_bytes(PICTURE.getvalue())
    (folder / "notes\x07.txt").touch()
    assert main(["embed", str(BUNDLE), str(folder), "-o", str(folder / "v\x9b.npy")]) == 0
    assert main(["info", str(folder)]) == 2

    def warn(_: argparse.Namespace) -> int:
        logging.getLogger("lame_runtime.test").warning("%s\nerror: forged", "\x1b[2J")
        return 0

    assert run_command(program(warn), ["work"], "") == 0
    streams = capsys.readouterr()
    assert not any(character in streams.out + streams.err for character in "\x1b\x07\x9b")
    assert r"warning: \x1b[2J\nerror: forged" in streams.err


def test_machine_readable_reports_escape_what_they_quote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "v\x9b\u202e.npy"
    assert main(["embed", str(BUNDLE), "--text", "a", "-o", str(target), "--json"]) == 0
    output = capsys.readouterr().out
    assert output.strip().isprintable()
    assert json.loads(output)["output"] == str(target)


@pytest.mark.parametrize("value", ["9" * 5000, "1.5", "x\x1b[31m", "1e3"])
def test_a_number_that_is_none_is_refused_shortly(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["embed", "b", "--text", "a", "-o", "v", "--batch-size", value])
    assert caught.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.isprintable()
    assert len(last) < 250


def test_a_huge_number_is_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the flag."""
    for flag in ("--batch-size", "--max-frames", "--truncate-dim", "--threads", "--gpu"):
        arguments = ["embed", str(BUNDLE), "--text", "a", "-o", str(tmp_path / "v.npy")]
        assert main([*arguments, flag, "9" * 20]) == 2
        assert f"{flag} is {'9' * 20}: use " in capsys.readouterr().err


def test_nothing_is_left_by_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space, a name that no file can have, a circle of links: `StorageError`, and no file."""

    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"), atomic_path(tmp_path / "a"):
        full()
    with pytest.raises(StorageError, match="No space left"), atomic_folder(tmp_path / "a"):
        full()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    for other in ("other/file", "other"):
        with (
            pytest.raises(StorageError, match="a: another process made it meanwhile"),
            atomic_folder(tmp_path / "a"),
        ):
            (tmp_path / other).rename(tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "other/file" if other != "other" else tmp_path / "b")
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "circle").symlink_to("circle")
    names = ["a\0b", "\ud800", "x" * 300, "circle", "none/a"]
    for name in names:
        for write in (atomic_path, atomic_folder):
            if (name, write) == ("none/a", atomic_folder):
                continue
            with pytest.raises(StorageError) as caught, write(tmp_path / name):
                pass
            assert len(str(caught.value)) < 250
    assert [path.name for path in tmp_path.iterdir()] == ["circle"]
    # a name close to the longest that a file may have still has room for the temporary one
    atomic_text(tmp_path / ("y" * 250), "text")
    monkeypatch.setattr(atomic.Path, "unlink", lambda *_, **__: None)
    with pytest.raises(StorageError), atomic_path(tmp_path / "a"):
        full()
    assert len(list(tmp_path.iterdir())) == 3
