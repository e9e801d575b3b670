"""Downloads pictures: a connection to the very address that was checked, bytes and time bounded."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin

from lame_runtime.errors import InputError, shown
from lame_runtime.serving.remote.web_address import WebAddress, parse_url, public_address

SECONDS = 10.0
"""Longest time of a download, redirects included."""
MAX_BYTES = 20_000_000
"""Largest file that is downloaded."""
MAX_SECONDS = 60.0
"""Longest time of all downloads of one request."""
MAX_REDIRECTS = 3
_BLOCK = 1 << 16
_MOVED = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Downloader:
    """Fetches files from the hosts that the operator allows.

    Attributes:
        allowed: hosts, or hosts with a port.
        resolve: returns the IP address to connect to, or refuses the host.
    """

    allowed: tuple[str, ...]
    resolve: Callable[[WebAddress], str] = public_address

    def fetch(self, url: str) -> bytes:
        """Returns the content behind a URL.

        Raises:
            InputError: the URL, a redirect or an address is not allowed, the file is too large or
                takes too long, or the host does not answer with one.
        """
        end = time.monotonic() + SECONDS
        for _ in range(MAX_REDIRECTS + 1):
            # again for each redirect, which may lead anywhere
            address = parse_url(url.strip(), self.allowed)
            connection = _Pinned(address, self.resolve(address), end)
            # a host that sends a byte a second keeps each read within its own time
            watch = threading.Timer(_left(end), connection.cut)
            watch.start()
            try:
                content, location = _get(connection, address, url)
                # also if the connection was cut, which looks like the end of the file
                _left(end)
            except (OSError, http.client.HTTPException, ValueError):
                raise InputError(f"{shown(url)}: the host did not answer with a file") from None
            finally:
                watch.cancel()
                connection.close()
            if location is None:
                return content
            url = urljoin(url, location)
        raise InputError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")


class Downloads:
    """The downloads of one request, within bounds of their sum.

    Args:
        downloader: fetches the files.
        most: bytes of all files.
        take: called with the size of each file; may refuse it.
    """

    def __init__(self, downloader: Downloader, most: int, take: Callable[[int], None]) -> None:
        self._downloader = downloader
        self._most = self._left = most
        self._take = take
        self._end = time.monotonic() + MAX_SECONDS

    def fetch(self, url: str) -> bytes:
        """Returns the content behind a URL.

        Raises:
            InputError: as `Downloader.fetch`, or all files together are too large or take too long.
        """
        if time.monotonic() > self._end:
            raise InputError(
                f"the files of the request took more than {MAX_SECONDS:g} s: send data: URLs"
            )
        content = self._downloader.fetch(url)
        self._left -= len(content)
        if self._left < 0:
            raise InputError(
                f"the files of the request are larger than {self._most / 1e6:,.0f} MB: "
                "send several requests"
            )
        self._take(len(content))
        return content


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked; the name is not resolved again."""

    def __init__(self, address: WebAddress, ip: str, end: float) -> None:
        super().__init__(address.host.strip("[]"), address.port, timeout=_left(end))
        self._ip = ip
        self._socket: socket.socket | None = None
        self._is_https = address.scheme == "https"

    def connect(self) -> None:
        """Connects to the address, without a proxy of the environment."""
        self.sock = socket.create_connection((self._ip, self.port), self.timeout)
        if self._is_https:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
        # the base class lets go of its own once the header is read
        self._socket = self.sock

    def cut(self) -> None:
        """Ends the connection from another thread."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # not that of an SSL socket, which another thread may be reading from
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _get(
    connection: http.client.HTTPConnection, address: WebAddress, url: str
) -> tuple[bytes, str | None]:
    """Returns the content, or where it has moved to."""
    headers = {"Host": address.header, "Accept": "image/*", "Accept-Encoding": "identity"}
    connection.request("GET", address.target, headers=headers)
    response = connection.getresponse()
    if response.status in _MOVED and (location := response.getheader("location")):
        return b"", location
    if response.status != 200:
        raise InputError(f"{shown(url)}: the host answered with the status {response.status}")
    # a small body could become a large one
    if response.getheader("content-encoding", "identity") != "identity":
        raise InputError(f"{shown(url)}: the host sent the file compressed")
    return _read(response, url), None


def _read(response: http.client.HTTPResponse, url: str) -> bytes:
    blocks: list[bytes] = []
    size = 0
    # what a header says about the size may be wrong
    while block := response.read(_BLOCK):
        blocks.append(block)
        size += len(block)
        if size > MAX_BYTES:
            raise InputError(f"{shown(url)}: the file is larger than {MAX_BYTES / 1e6:.0f} MB")
    return b"".join(blocks)


def _left(end: float) -> float:
    """Returns the seconds that are left; raises `TimeoutError`, an `OSError`, if there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
