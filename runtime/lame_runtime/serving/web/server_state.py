"""Holds the parts that the routes share, also while the bundle is being loaded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError
from lame_runtime.search import Index
from lame_runtime.serving.admission import Admission
from lame_runtime.serving.api.api_errors import lost_backend, unavailable
from lame_runtime.serving.figures import Figures
from lame_runtime.serving.health import Health
from lame_runtime.serving.service import Service
from lame_runtime.serving.settings import ServeOptions

PROBE_SECONDS = 1.5
"""Longest time that a question about readiness waits for a probe."""


class ServerState:
    """The parts of a server.

    Args:
        options: limits and switches.
        load: loads the encoder; called in a thread of its own.
        index: the index that is searched; None for none.
    """

    def __init__(
        self, options: ServeOptions, load: Callable[[], Encoder], index: Index | None = None
    ) -> None:
        self.options = options
        self.index = index
        self.admission = Admission(options.queue_items, options.queue_bytes)
        self.health = Health(options.deadline)
        self.figures = Figures()
        self.figures.queue_items.set_function(lambda: self.admission.items)
        self.figures.ready.set_function(lambda: self.health.problem is None)
        self.service: Service | None = None
        self.ending = asyncio.Event()
        """Set when the server begins to end."""
        self.failure: BaseException | None = None
        """Why the bundle could not be loaded."""
        self._load = load
        self._is_closed = False
        self._lock = threading.Lock()

    async def start(self) -> None:
        """Loads the bundle; `service` or `failure` is set afterward."""
        loop = asyncio.get_running_loop()
        loaded = asyncio.Event()

        def load() -> None:
            self._make_service()
            # the loop may have ended meanwhile, because of a signal
            if not loop.is_closed():
                loop.call_soon_threadsafe(loaded.set)

        # not one of the loop's own threads, whose end the process would wait for
        threading.Thread(target=load, name="lame-serve-load", daemon=True).start()
        await loaded.wait()

    def require_service(self) -> Service:
        """Returns the service; raises the `ApiError` 503 if it cannot embed now."""
        # first of all, also while the bundle is loaded
        if self.health.phase == "draining":
            raise unavailable("the server is about to end", "draining", 5)
        if self.service is None:
            raise unavailable("the bundle is being loaded", "starting", 2)
        if self.health.is_lost:
            raise lost_backend()
        return self.service

    async def problem(self) -> str | None:
        """Returns why the server is not ready; runs the probe if no vector came out lately."""
        # nobody asks a server without traffic, except for this
        if self.service is not None and self.health.must_probe:
            probe = asyncio.wrap_future(self.service.scheduler.probe())
            # one that takes longer shows in the time of the run
            await asyncio.wait({probe}, timeout=PROBE_SECONDS)
        return self.health.problem

    def close(self) -> None:
        """Ends the threads and releases the graphs."""
        with self._lock:
            self._is_closed = True
            if self.service is not None:
                self.service.close()

    def _make_service(self) -> None:
        try:
            encoder = self._load()
            if self.index is not None:
                _require_same_bundle(self.index, encoder)
            service = Service(encoder, self.options, self.admission, self.health, self.figures)
        # handed to the main thread, which raises it
        except BaseException as error:
            self.failure = error
            return
        with self._lock:
            if self._is_closed:
                service.close()
                return
            self.service = service
            if self.health.phase == "starting":
                self.health.phase = "serving"


def _require_same_bundle(index: Index, encoder: Encoder) -> None:
    bundle = encoder.bundle
    try:
        index.require_bundle("" if bundle is None else bundle.manifest.sha256, encoder.graph)
    except UsageError:
        encoder.close()
        raise
