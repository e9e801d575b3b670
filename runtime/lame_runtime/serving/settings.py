"""Options of the server as values."""

from __future__ import annotations

from dataclasses import dataclass, field

from lame_runtime.arguments import described, integer, number, switch
from lame_runtime.errors import UsageError

MAX_ITEMS, MAX_BODY_MB, QUEUE_ITEMS = 2048, 64, 8192
DEADLINE = 120.0
BATCH_TOKENS = 8192
QUEUED_BODIES = 8
"""Bodies of the largest size that may be in memory at one time."""
_MOST = 1 << 24


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of `lame-runtime serve`.

    Attributes:
        host: address to listen at.
        port: port to listen at; 0 takes a free one.
        api_keys: keys that a client may send; none leaves the server open.
        allow_urls: hosts, or hosts with a port, that pictures may be downloaded from.
        allow_video: whether inputs may hold videos.
        max_items: items of one request.
        max_body_mb: size of one request, in millions of bytes.
        queue_items: items that may be in the server at one time.
        deadline: seconds after which an accepted request is given up.
        batch_tokens: tokens per run of the graph, padding included, and two patches for each.
        name: name of the model for clients; empty for the name of the bundle's folder.

    Raises:
        UsageError: a value is of a wrong type, out of range, or contradicts another.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allow_urls: tuple[str, ...] = ()
    allow_video: bool = False
    max_items: int = MAX_ITEMS
    max_body_mb: int = MAX_BODY_MB
    queue_items: int = QUEUE_ITEMS
    deadline: float = DEADLINE
    batch_tokens: int = BATCH_TOKENS
    name: str = ""

    def __post_init__(self) -> None:
        integer("port", self.port, 0, 65_535)
        for name in ("max_items", "max_body_mb", "queue_items", "batch_tokens"):
            integer(name, getattr(self, name), 1, _MOST)
        number("deadline", self.deadline, 0.001, 86_400)
        switch("allow_video", self.allow_video)
        # otherwise the largest request would be refused for ever
        if self.queue_items < self.max_items:
            raise UsageError(
                f"`queue_items` is {self.queue_items}, fewer than `max_items` ({self.max_items:,}) "
                "of one request: raise it, or lower `max_items`"
            )
        # an empty key would be one that everybody knows; the value is not repeated, it is a secret
        if not all(
            key and key.isascii() and key.isprintable() and " " not in key for key in self.api_keys
        ):
            raise UsageError(
                "`api_key` must be printable ASCII characters without spaces, and not empty"
            )
        # a URL instead of a host would never match, and allow nothing
        for host in self.allow_urls:
            if not host or not host.isascii() or set(host) & set("/@\\ ?#*"):
                raise UsageError(
                    f"`allow_urls` is {described(host)}: give a host such as images.example.com, "
                    "with :PORT if it is not that of the scheme"
                )

    @property
    def max_body_bytes(self) -> int:
        """Size of one request in bytes."""
        return self.max_body_mb * 1_000_000

    @property
    def queue_bytes(self) -> int:
        """Bytes of all requests that may be in memory at one time."""
        return QUEUED_BODIES * self.max_body_bytes
