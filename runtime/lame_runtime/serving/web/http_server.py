"""The socket, signals, and the end of accepted work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError, shown
from lame_runtime.search import Index
from lame_runtime.serving.settings import ServeOptions
from lame_runtime.serving.web.application import make_application
from lame_runtime.serving.web.http_protocol import HttpProtocol
from lame_runtime.serving.web.server_state import ServerState

_TICK = 0.02
_GRACE_SECONDS = 5
"""Time that answers have to reach their clients once all of them are there."""
_BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
        UsageError: the address is taken, not of this machine, or may not be used.
    """
    try:
        family, _, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # with the protocol's number, asyncio turns Nagle's algorithm off: without, a reply in two
        # writes waits 40 ms for the client to acknowledge the first
        listener = socket.socket(family, socket.SOCK_STREAM, protocol)
        try:
            # a port whose last server has just ended
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such host"
        raise UsageError(
            f"cannot listen at `host` {shown(host)}, `port` {port} ({reason}): choose another"
        ) from None
    return listener


class HttpServer(uvicorn.Server):
    """Serves one bundle until a signal ends it, after what was accepted is answered.

    Args:
        options: address, limits and switches.
        load: loads the encoder, while the server answers 503.
        announce: called with one line once the bundle is served.
        index: the index that is searched; None for none.

    Raises:
        UsageError: the address cannot be used.
    """

    def __init__(
        self,
        options: ServeOptions,
        load: Callable[[], Encoder],
        announce: Callable[[str], object] = lambda _: None,
        index: Index | None = None,
    ) -> None:
        self.state = ServerState(options, load, index)
        self.was_cut_short = False
        """Whether a second signal ended the server before accepted work was answered."""
        self._listener = bind(options.host, options.port)
        self._announce = announce
        self._loading: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        config = uvicorn.Config(
            make_application(self.state, self._lifespan),
            # our own logging, and nothing about clients
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            http=HttpProtocol,
            ws="none",
            lifespan="on",
            # headers that a client could set
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        super().__init__(config)

    @property
    def url(self) -> str:
        """The address for clients on this machine."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def serve_until_signal(self) -> None:
        """Serves; returns when a signal or `drain` has ended it.

        Raises:
            LameError: the bundle cannot be loaded.
        """
        # kept, because the socket is closed at the end
        self.run(sockets=[self._listener])
        if self.state.failure is not None:
            raise self.state.failure

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone: uvicorn would end at once, and raise them again."""
        yield

    def drain(self) -> None:
        """Ends the server once it has answered what it accepted.

        A second call refuses what is left, and a third leaves it without an answer.
        """
        if self._draining is not None:
            self.force_exit = self.should_exit
            self.was_cut_short = self.was_cut_short or bool(self.state.admission.requests)
            if self.state.service is not None:
                self.state.service.scheduler.abandon()
            self.should_exit = True
            return
        self.state.health.phase = "draining"
        self.state.ending.set()
        self._draining = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        end = time.monotonic() + self.state.options.deadline
        while self.state.admission.requests and time.monotonic() < end:
            await asyncio.sleep(_TICK)
        self.should_exit = True

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        if threading.current_thread() is threading.main_thread() and os.name == "posix":
            # not the handlers of the command line, which would raise in the middle of a request
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.drain)
        # not awaited: health has to be answered meanwhile
        self._loading = asyncio.ensure_future(self._load())
        try:
            yield
        finally:
            self._loading.cancel()
            # in a thread, because it waits for others
            await asyncio.to_thread(self.state.close)

    async def _load(self) -> None:
        await self.state.start()
        service = self.state.service
        if service is None:
            self.should_exit = True
            return
        facts = service.facts()
        self._announce(
            f"{self.url} serves {facts['id']}: graph {facts['graph']} on {facts['backend']}, "
            f"vectors of {facts['dim']} values, inputs {', '.join(facts['inputs'])}"
        )
