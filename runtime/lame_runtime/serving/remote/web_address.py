"""One parser for URLs, and the hosts and addresses that are refused.

The parts that were checked are the parts that the connection uses: a server that checks a URL with
one parser and fetches it with another can be led elsewhere (CVE-2026-24779).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from lame_runtime.errors import InputError, shown

_PORTS = {"http": 80, "https": 443}
_LONGEST = 4_000
# visible ASCII without the backslash, which some parsers take for a slash
_PLAIN = re.compile(r"[!-\[\]-~]+")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
# 2130706433 and 0x7f.1 are addresses to some libraries
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*")
_REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",  # carriers' NAT
        "192.88.99.0/24",  # relays of 6to4
        "64:ff9b::/96",  # NAT64: an IPv4 address in another form
        "64:ff9b:1::/48",
        "2002::/16",  # 6to4
        "2001::/32",  # Teredo
        "::/96",  # IPv4-compatible
        "fec0::/10",
    )
]


@dataclass(frozen=True)
class WebAddress:
    """A URL that may be fetched, in the parts that a connection needs."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query."""

    @property
    def header(self) -> str:
        """The value of the header `Host`."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"


def parse_url(url: str, allowed: Collection[str]) -> WebAddress:
    """Returns the parts of a URL.

    Args:
        url: what the client or a redirect gave.
        allowed: hosts, or hosts with the port that is allowed instead of the scheme's own.

    Raises:
        InputError: another scheme, a name and password, a host or port that is not allowed, or
            characters that parsers disagree on.
    """
    if len(url) > _LONGEST or not _PLAIN.fullmatch(url):
        raise InputError(
            f"{shown(url)}: the URL is too long or has characters that are not allowed"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(f"{shown(url)}: the URL is malformed") from None
    if parts.scheme not in _PORTS:
        raise InputError(f"{shown(url)}: only http and https URLs are fetched")
    if "@" in parts.netloc or "%" in parts.netloc:
        raise InputError(f"{shown(url)}: a URL with a user name or escapes in its host is refused")
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc.rstrip(":")
    host = host.lower()
    if not _HOST.fullmatch(host) or (_NUMERIC.fullmatch(host) and not _is_address(host)):
        raise InputError(f"{shown(url)}: the host is not a name or address in its usual form")
    port = _PORTS[parts.scheme] if port is None else port
    own_port = port == _PORTS[parts.scheme]
    names = {name.lower() for name in allowed}
    if f"{host}:{port}" not in names and not (own_port and host in names):
        raise InputError(
            f"{shown(url)}: nothing is fetched from this host and port: send a data: URL"
        )
    target = parts.path or "/"
    return WebAddress(
        parts.scheme, host, port, f"{target}?{parts.query}" if parts.query else target
    )


def public_address(address: WebAddress) -> str:
    """Resolves the host once and returns the IP address to connect to.

    Raises:
        InputError: the host is not known, or any of its addresses is not a public one.
    """
    try:
        entries = socket.getaddrinfo(
            address.host.strip("[]"), address.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        raise InputError(f"{shown(address.host)}: the host is not known") from None
    addresses = [str(entry[4][0]) for entry in entries]
    # all of them: a name with one public and one private address is one that somebody set up
    if not addresses or not all(map(is_public, addresses)):
        raise InputError(f"{shown(address.host)}: the host is not on the public internet")
    return addresses[0]


def is_public(text: str) -> bool:
    """Returns whether an IP address belongs to the public internet, and stands for itself."""
    try:
        # the zone of a link-local address is of no use to anybody else
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return False
    if any(address in network for network in _REFUSED if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
