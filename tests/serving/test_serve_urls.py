"""URLs: refused by default; for allowed hosts, only what is public, small and quick is fetched."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lame_runtime import Encoder, InputError
from lame_runtime.serving.remote import download
from lame_runtime.serving.remote.download import Downloader, Downloads
from lame_runtime.serving.remote.web_address import is_public, parse_url, public_address
from lame_runtime.serving.settings import ServeOptions
from running_server import as_bytes, picture, running

HOST = "images.example.com"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0/",
        f"http://{HOST}@127.0.0.1/",
        f"http://127.0.0.1#@{HOST}/",
        f"http://127.0.0.1\\@{HOST}/",
        f"http://{HOST}\\@127.0.0.1/",
        f"http://{HOST}:22/",
        f"http://{HOST}:99999/",
        f"https://{HOST}:80/",
        f"http://{HOST}.evil.com/",
        f"http://evil.com/{HOST}",
        f"http://{HOST}%2eevil.com/",
        f"http://user:password@{HOST}/",
        f"ftp://{HOST}/",
        f"file://{HOST}/etc/passwd",
        f"gopher://{HOST}/",
        f"//{HOST}/",
        f"http:/{HOST}/",
        f"http:///{HOST}/",
        f"http://{HOST}/a b",
        f"http://{HOST}/\r\nHost: evil.com",
        f"http://{HOST}\u3002evil.com/",
        "http://\u2460\u2461\u2466.0.0.1/",
        f"http://{HOST}/{'a' * 5000}",
        "http://",
        "",
    ],
)
def test_urls_that_lead_elsewhere_are_refused(url: str, no_network: None) -> None:
    """Before any host is looked up."""
    with pytest.raises(InputError):
        Downloader((HOST,)).fetch(url)


def test_allowed_urls_are_taken_apart_once() -> None:
    """The control: names without regard to case, the scheme's port or the one that is given."""
    address = parse_url(f"https://{HOST.upper()}/a.png?b=1#c", (HOST,))
    assert (address.scheme, address.host, address.port) == ("https", HOST, 443)
    assert address.target == "/a.png?b=1"
    assert address.header == HOST
    assert parse_url(f"http://{HOST}:8080", (f"{HOST}:8080",)).header == f"{HOST}:8080"
    with pytest.raises(InputError):
        parse_url(f"http://{HOST}/", (f"{HOST}:8080",))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1",
        "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "192.88.99.1", "::", "::1", "::ffff:8.8.8.8", "::8.8.8.8",
        "64:ff9b::808:808", "64:ff9b:1::1", "2002:808:808::1", "2001:0:1::1", "fe80::1", "fec0::1",
        "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "no address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    """Private ones, those of this machine and of clouds, and IPv4 in the clothes of IPv6."""
    assert not is_public(address)


def test_public_addresses_are_accepted() -> None:
    """The control."""
    for address in ("8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:800::1"):
        assert is_public(address)


def answers(*lists: list[str]) -> Any:
    """Returns a resolver that gives one list of addresses after the other."""
    left = iter(lists)

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, port)) for address in next(left)]

    return resolve


def test_one_private_address_refuses_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a public and a private one is a trap."""
    address = parse_url(f"http://{HOST}/", (HOST,))
    for listed in (["8.8.8.8", "10.0.0.1"], ["127.0.0.1"], []):
        monkeypatch.setattr(socket, "getaddrinfo", answers(listed))
        with pytest.raises(InputError, match="not on the public internet"):
            public_address(address)


def test_a_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was checked, whatever the name means by then."""
    monkeypatch.setattr(socket, "getaddrinfo", answers(["8.8.8.8"], ["127.0.0.1"]))
    connected: list[Any] = []

    def connect(address: Any, *_: Any, **__: Any) -> Any:
        connected.append(address)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(InputError, match="did not answer"):
        Downloader((HOST,)).fetch(f"http://{HOST}/a.png")
    assert connected == [("8.8.8.8", 80)]


class Files(http.server.BaseHTTPRequestHandler):
    """A host with a picture, and with traps."""

    def do_GET(self) -> None:
        """Answers by the path."""
        host = self.headers["host"]
        moves = {
            "/moved": "/a.png",
            "/inside": "http://127.0.0.1:1/a.png",
            "/metadata": "http://169.254.169.254/",
            "/other": "http://other.example.com/",
            "/file": "file:///etc/passwd",
            "/round": "/round",
        }
        if self.path in moves:
            self.send_response(302)
            self.send_header("location", moves[self.path])
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        if self.path == "/packed":
            self.send_header("content-encoding", "gzip")
        self.end_headers()
        try:
            if self.path == "/endless":
                while True:
                    self.wfile.write(b"x" * 65_536)
            elif self.path == "/slow":
                for _ in range(200):
                    self.wfile.write(b"x")
                    time.sleep(0.02)
            else:
                assert host.startswith(HOST)
                self.wfile.write(picture())
        except OSError:  # the client has had enough
            pass

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def host() -> Iterator[tuple[str, Downloader]]:
    """Runs the host, and yields its address and a downloader that finds it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as files:
        thread = threading.Thread(target=files.serve_forever, args=(0.01,))
        thread.start()
        try:
            name = f"{HOST}:{files.server_port}"
            yield f"http://{name}", Downloader((name,), lambda _: "127.0.0.1")
        finally:
            files.shutdown()
            thread.join()


def test_files_are_fetched_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture and a redirect to it; not what leads elsewhere, is too large or takes too long."""
    monkeypatch.setattr(download, "MAX_BYTES", 300_000)
    with host() as (url, downloader):
        assert downloader.fetch(f"{url}/a.png") == picture()
        assert downloader.fetch(f"{url}/moved") == picture()
        for path, words in (
            ("/inside", "nothing is fetched from this host"),
            ("/metadata", "nothing is fetched from this host"),
            ("/other", "nothing is fetched from this host"),
            ("/file", "only http and https"),
            ("/round", "redirects"),
            ("/none", "status 404"),
            ("/packed", "compressed"),
            ("/endless", "larger than"),
        ):
            with pytest.raises(InputError, match=words):
                downloader.fetch(url + path)
        monkeypatch.setattr(download, "SECONDS", 0.2)
        with pytest.raises(InputError, match="did not answer"):
            downloader.fetch(f"{url}/slow")


def test_the_downloads_of_a_request_have_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes, which also count as those of the server, and in time."""
    taken: list[int] = []
    size = len(picture())
    with host() as (url, downloader):
        downloads = Downloads(downloader, 2 * size, taken.append)
        assert downloads.fetch(f"{url}/a.png") == downloads.fetch(f"{url}/moved") == picture()
        with pytest.raises(InputError, match="larger than"):
            downloads.fetch(f"{url}/a.png")
        assert taken == [size, size]
        monkeypatch.setattr(download, "MAX_SECONDS", -1)
        with pytest.raises(InputError, match="took more than"):
            Downloads(downloader, size, taken.append).fetch(f"{url}/a.png")


def test_a_picture_behind_an_allowed_url(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every place of a picture; a bare string that is a URL is still a text."""
    expected = as_bytes(encoder.encode([{"image": picture()}]))
    with host() as (url, downloader):
        allowed = downloader.allowed
        monkeypatch.setattr("lame_runtime.serving.service.Downloader", lambda _: downloader)
        with running(ServeOptions(port=0, allow_urls=allowed)) as server:
            name = f"{url}/a.png"
            part = {"type": "image_url", "image_url": {"url": name}}
            for item in ({"image": name}, part, [{"role": "user", "content": [part]}]):
                assert server.vectors(input=[item]) == expected
            assert server.vectors(input=name) == as_bytes(encoder.encode(name))
            error = server.error(400, input=["a", {"image": f"{url}/metadata"}])
            assert error["param"] == "input[1]"
            assert (
                server.error(400, input={"image": "http://127.0.0.1/"})["code"] == "invalid_input"
            )
