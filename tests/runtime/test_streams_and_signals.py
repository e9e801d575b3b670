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
from lame_runtime import BackendError, InputError, StorageError, progress
from lame_runtime.cli import sources
from lame_runtime.cli.command_line import run_command
from lame_runtime.cli.grammar import ProgramParser, add_command
from lame_runtime.cli.main import main
from lame_runtime.cli.sources import read_sources
from lame_runtime.files import atomic
from lame_runtime.files.atomic import atomic_folder, atomic_path, atomic_text
from lame_runtime.progress import progress_bar
from PIL import Image

BUNDLE = Path(__file__).parent.parent.parent / "examples/tiny-bundle"
EMBED = [sys.executable, "-m", "lame_runtime", "embed", str(BUNDLE)]
WITH_SIGNALS = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Starts a program with all signals: `nohup` and background jobs of a shell ignore some."""
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
        [sys.executable, "-c", WITH_SIGNALS, *EMBED, "-", "-o", "out/v.npy"],
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


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
@pytest.mark.parametrize("error", [ImportError("initialization failed"), BackendError("x"), None])
def test_a_signal_counts_though_an_import_turns_it_into_an_error(
    error: Exception | None, number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Native code does so, and the message would be that ONNX Runtime is not installed."""

    def interrupted(*_: object) -> int:
        # the second one must not interrupt the cleanup
        for _ in range(2):
            try:
                os.kill(os.getpid(), number)
                time.sleep(0.01)
            except KeyboardInterrupt:
                pass
        if error:
            raise error
        return 0

    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert run_command(program(interrupted), ["work"], "") == code
        if error:
            assert run_command(interrupted, ["work"], "") == code  # type: ignore[arg-type]
            assert capsys.readouterr().err == "stopped; \n" * 2
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


@pytest.mark.parametrize(
    "module", ["lame_runtime.cli.main", "lame_training.__main__", "lame_export.cli.main"]
)
def test_signals_are_handled_before_anything_large_is_imported(module: str) -> None:
    """Importing NumPy takes long enough for a ctrl-C, which would print a traceback."""
    code = f"import {module}, sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    large = {"numpy", "PIL", "torch", "transformers", "onnxruntime", "onnx", "tqdm"}
    assert not large & set(done.stdout.split())


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


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_or_full_changes_no_outcome(stream: str, tmp_path: Path) -> None:
    """The vectors are written whole, and errors keep their exit code."""
    if "full" in stream and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    for arguments, code in (("--text a", 0), ("--text a --batch-size 0", 2), ("none.png", 2)):
        command = f"{' '.join(EMBED)} {arguments} -o v.npy {stream}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False)
        assert done.returncode == code, arguments
    assert np.load(tmp_path / "v.npy").shape == (1, 64)
    for command in ("--nonsense", "info none"):
        line = f"{sys.executable} -m lame_runtime {command} {stream}"
        assert subprocess.run(["bash", "-c", line], cwd=tmp_path, check=False).returncode == 2


def test_what_a_library_prints_does_not_end_up_in_a_file(tmp_path: Path) -> None:
    """The number of a stream that is closed is not given to the next file that is opened."""
    code = (
        "import os, sys; from lame_runtime.cli.system.streams import open_streams\n"
        "if sys.argv[1] == 'guarded': guard = open_streams(); guard.__enter__()\n"
        "file = open('out', 'w'); os.write(2, b'warning') if file.fileno() == 2 else None\n"
    )
    for mode, content in (("guarded", ""), ("control", "warning")):
        line = f'{sys.executable} -c "{code}" {mode} 2>&-'
        subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
        assert (tmp_path / "out").read_text() == content


def test_notes_and_progress_do_not_need_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fails without stderr, nor if it cannot be written, also outside the command line."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(PICTURE.getvalue())
    (tmp_path / "notes.txt").touch()
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    for stream in (None, Full()):
        monkeypatch.setattr(sys, "stderr", stream)
        assert len(list(read_sources([str(tmp_path)], []))) == 1
        assert list(progress_bar(range(20), total=20)) == list(range(20))


@pytest.mark.parametrize("name", ["data:rows.jsonl", "ab:/", "data:x,", "data:a.png", "ab://b.png"])
def test_a_name_like_a_url_is_that_of_an_existing_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line, for files, folders, JSONL and PDFs; without a file it stays a URL."""
    monkeypatch.chdir(tmp_path)
    for folder in ("ab:", "data:x,"):
        Path(folder).mkdir()
        (Path(folder) / "b.png").write_bytes(PICTURE.getvalue())
    Path("data:a.png").write_bytes(PICTURE.getvalue())
    Path("data:rows.jsonl").write_text('{"image": "data:a.png"}\n')
    assert main(["embed", str(BUNDLE), name, "-o", "v.npy"]) == 0
    (Path("data:x,") / "rows.jsonl").write_text('{"image": "b.png"}\n')
    assert main(["embed", str(BUNDLE), "data:x,/rows.jsonl", "-o", "v.npy"]) == 0
    for missing in ("ab://c.png", "https://host/a.png"):
        with pytest.raises(InputError, match="is a URL"):
            list(read_sources([missing], []))
    assert len(list(read_sources(["data:;base64,AAAA"], []))) == 1


@pytest.mark.parametrize("name", ["clip.ts", "clip.mpg", "clip.mp4", "clip.mkv", "clip.avi"])
def test_a_video_is_recognized_by_its_beginning(name: str, tmp_path: Path) -> None:
    """A stream has no suffix, and gives the vectors of the file."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("mpeg2video" if name == "clip.mpg" else "mpeg4", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8):
            pixels = np.full((48, 64, 3), 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    vectors = []
    for source in (f"/dev/stdin < {name}", f"<(cat {name})", name):
        line = f"{' '.join(EMBED)} {source} -o v.npy"
        subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, capture_output=True)
        vectors.append(np.load(tmp_path / "v.npy"))
    assert np.allclose(vectors[:2], vectors[2], atol=1e-5)


@pytest.mark.parametrize("blank", [b"\n" * 20, b" " * 3000, b"\xef\xbb\xbf" + b"\r\n" * 2000])
def test_jsonl_on_stdin_may_begin_with_blank_lines(blank: bytes, tmp_path: Path) -> None:
    command = [*EMBED, "/dev/stdin", "-o", "v.npy"]
    subprocess.run(command, cwd=tmp_path, input=blank + b'"a"\n"b"\n', check=True)
    assert len(np.load(tmp_path / "v.npy")) == 2


def test_an_output_of_the_process_is_no_input(tmp_path: Path) -> None:
    """It is refused at once: who reads its own output waits forever."""
    for name, redirect in (
        ("/dev/fd/1", "| cat"),
        ("/dev/fd/2", ""),
        ("/proc/self/fd/1", "| cat"),
        ("/dev/fd/5", "5> out"),
        ("/dev/fd/5", "5<> pipe"),
        ("/dev/fd/77", ""),
    ):
        line = f"[ -p pipe ] || mkfifo pipe; {' '.join(EMBED)} {name} -o v.npy {redirect}"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, name
        assert done.stderr.count(b"\n") == 1, done.stderr
        assert name.encode() in done.stderr
    line = f"{' '.join(EMBED)} /dev/fd/5 -o v.npy 5< <(echo '\"a\"')"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, capture_output=True)


def test_many_blank_lines_cost_little(tmp_path: Path) -> None:
    """A line is given its place in a message only if there is a message."""
    (tmp_path / "a.jsonl").write_bytes(b"\n" * 1_000_000 + b'"a"\n"')
    start = time.process_time()
    with pytest.raises(InputError, match="line 1000002: not JSON"):
        list(read_sources([str(tmp_path / "a.jsonl")], []))
    assert time.process_time() - start < 1
