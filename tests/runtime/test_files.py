"""Tests reading of regular files and JSON, and values in messages."""

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from lame_runtime.errors import InputError, printable, shown
from lame_runtime.files import regular
from lame_runtime.files.fork_lock import ForkLock
from lame_runtime.files.json_file import parse_json, read_json
from lame_runtime.files.regular import open_regular, read_regular


def test_a_regular_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
    assert read_regular(str(tmp_path / "a"), most=3) == b"abc"


def test_pipes_sockets_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    reasons = {"pipe": "a pipe", "zero": "a device", "socket": "a socket", ".": "a folder"}
    for name, reason in reasons.items():
        with pytest.raises(OSError, match=f"is {reason}, not"):
            open_regular(tmp_path / name)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_what_is_no_name_of_a_file_is_an_oserror(name: str) -> None:
    with pytest.raises(OSError, match="is not the name of a file"):
        open_regular(name)


def test_a_file_that_is_too_large_is_refused_also_if_its_size_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abcd")
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_regular(tmp_path / "a", most=3)
    # files of /proc say that they are empty
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_regular("/proc/self/status", most=3)


def test_a_signal_behind_the_opening_of_a_file_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file object, which owns the descriptor, is gone then; closing it again would fail."""
    (tmp_path / "a").write_bytes(b"abc")

    def interrupted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            function(*args, **options).close()  # type: ignore[attr-defined]
            raise KeyboardInterrupt

        return call

    monkeypatch.setattr(regular, "open", interrupted(open), raising=False)
    monkeypatch.setattr(os, "fdopen", interrupted(os.fdopen))
    with pytest.raises(KeyboardInterrupt):
        open_regular(tmp_path / "a")


def test_a_file_that_was_replaced_by_a_pipe_is_refused_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two looks at it."""
    (tmp_path / "a").write_bytes(b"abc")
    looks, closed, close = [], [], os.close

    def second_fails(*_: object) -> None:
        looks.append(1)
        if len(looks) == 2:
            raise OSError(errno.EINVAL, "is a pipe, not a regular file")

    monkeypatch.setattr(regular, "_require_regular", second_fails)
    monkeypatch.setattr(os, "close", lambda handle: closed.append(handle) or close(handle))
    with pytest.raises(OSError, match="is a pipe"):
        open_regular(tmp_path / "a")
    assert len(closed) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", "[Infinity]", "9" * 5000, b"\xff", ""])
def test_json_that_is_too_deep_or_no_json_is_a_valueerror(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_a_message_is_one_printable_line() -> None:
    message = str(InputError("a\x1b]0;title\x07b\nc\u202ed\ud800"))
    assert message == r"a\x1b]0;title\x07b\nc\u202ed\ud800"
    assert printable("Grüße, 猫 🐈") == "Grüße, 猫 🐈"


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, "\x1b" * 100, 10**5000, b"\0" * 10**6, ["y" * 99]],
    ids=["text", "controls", "number", "bytes", "list"],
)
def test_a_message_repeats_at_most_80_characters_of_a_value(value: object) -> None:
    assert len(shown(value)) <= 80
    assert shown(value).isprintable()


def test_the_name_of_a_file_survives_shortening() -> None:
    assert shown("/very/long" * 20 + "/photo.png").endswith("/photo.png")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_gets_a_lock_that_a_thread_held() -> None:
    """A plain lock, the control, stays held in the child."""
    ours, plain = ForkLock(), threading.Lock()
    with ours, plain:
        child = os.fork()
        if child == 0:
            # 1 for each lock that is held
            os._exit(ours.locked() + 2 * plain.locked())
        _, status = os.waitpid(child, 0)
        assert ours.locked()
    assert os.waitstatus_to_exitcode(status) == 2
    assert not ours.locked()
