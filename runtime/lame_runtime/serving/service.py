"""An encoder with everything that serves it: admission, threads, health and figures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from lame_runtime.bundle.certificate import read_certificate
from lame_runtime.contract.prompts import Input
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError
from lame_runtime.isolation.probes import warm_up
from lame_runtime.machine.cores import default_workers
from lame_runtime.preparation.decoding_memory import DecodingMemory
from lame_runtime.serving.admission import Admission, Ticket
from lame_runtime.serving.api.api_errors import ApiError, input_problem
from lame_runtime.serving.figures import Figures
from lame_runtime.serving.health import Health
from lame_runtime.serving.remote.download import Downloader, Downloads
from lame_runtime.serving.requests.items import holds_media, item_input, require_few_media
from lame_runtime.serving.requests.media_sources import MediaSources
from lame_runtime.serving.requests.wanted import Wanted
from lame_runtime.serving.scheduling.backend_runner import BackendRunner
from lame_runtime.serving.scheduling.jobs import Job
from lame_runtime.serving.scheduling.scheduler import Scheduler
from lame_runtime.serving.settings import ServeOptions

_DOWNLOADS = 32
"""Requests that may wait for other hosts at one time."""


class Service:
    """Serves one encoder. Creating it runs golden inputs, so that the first request is not slow.

    Args:
        encoder: an encoder of a bundle; closed with the service.
        options: limits and switches.
        admission: counts accepted work.
        health: told when the service is ready.
        figures: figures.

    Raises:
        ProofError: the graph does not give the bundle's vectors.
        BackendError: the graph failed.
        BundleError: the golden files are damaged.
    """

    def __init__(
        self,
        encoder: Encoder,
        options: ServeOptions,
        admission: Admission,
        health: Health,
        figures: Figures,
    ) -> None:
        # before any thread starts, as nothing can be served if it fails
        probe = warm_up(encoder)
        health.succeeded()
        workers = default_workers()
        # one for all threads of the server, whatever they read
        memory = DecodingMemory()
        rules = encoder.preparer.contract.images
        self.encoder = encoder
        self.options = options
        self.admission = admission
        self.health = health
        self.figures = figures
        self.name = options.name or _folder_name(encoder)
        self.memory = memory
        """Bounds the memory of all decoders, also for thumbnails."""
        self._certificate = _certificate_facts(encoder)
        self._media = MediaSources(rules, options.allow_video, memory)
        self._downloader = Downloader(options.allow_urls) if options.allow_urls else None
        self.readers = ThreadPoolExecutor(workers, "lame-serve-read")
        """Threads that parse requests and write replies, so that the loop of events goes on."""
        self.openers = ThreadPoolExecutor(
            workers if self._downloader is None else _DOWNLOADS, "lame-serve-open"
        )
        """Threads that read the headers of pictures, which may wait for memory, and download."""
        self.scheduler = Scheduler(
            BackendRunner(encoder, probe, health, figures),
            encoder.preparer,
            memory,
            health,
            figures,
            # what fits in memory, also if the operator asks for more
            batch_tokens=min(options.batch_tokens, encoder.max_tokens),
            workers=workers,
        )

    def threads_for(self, wanted: Wanted) -> ThreadPoolExecutor:
        """Returns the threads that make a job: texts do not wait for the pictures of others."""
        return self.openers if any(map(holds_media, wanted.items)) else self.readers

    def job(self, wanted: Wanted, ticket: Ticket) -> Job:
        """Returns a job for `scheduler.submit`. Nothing is decoded but the headers of pictures.

        Args:
            wanted: what the request asks for; its items are removed, since media are large.
            ticket: counts the bytes of what is downloaded.

        Raises:
            ApiError: 400, an item cannot be an input, which the error names; 429, the server is
                full.
        """
        encoder, inputs = self.encoder, self._inputs(wanted, ticket)
        wanted.items.clear()
        return Job(inputs, wanted.places, wanted.options, encoder.preparer, encoder.dim)

    def _inputs(self, wanted: Wanted, ticket: Ticket) -> list[Input]:
        media = self._media
        if self._downloader is not None:
            most = self.options.max_body_bytes
            take = lambda size: ticket.take(size=size)  # noqa: E731
            media = replace(media, downloads=Downloads(self._downloader, most, take))
        inputs = []
        for item, place in zip(wanted.items, wanted.places, strict=True):
            try:
                require_few_media(item, self.encoder.preparer.contract.limits.visuals)
                inputs.append(item_input(item, media))
            except InputError as error:
                raise input_problem(error, place) from None
        return inputs

    def check_count(self, wanted: Wanted) -> None:
        """Raises the `ApiError` 400 if a request has too many items."""
        if (count := len(wanted.items)) > self.options.max_items:
            raise ApiError(
                400,
                f"the request has {count:,} items, the limit is {self.options.max_items:,}: "
                "send several requests",
                "too_many_items",
                # `input[0]`, or `texts[0]` of Cohere's shape
                param=wanted.places[0].partition("[")[0],
            )

    def facts(self) -> dict[str, Any]:
        """Returns what `/v1/models` says about the model."""
        contract, bundle = self.encoder.preparer.contract, self.encoder.bundle
        video = ["video"] if self.options.allow_video else []
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "lame",
            "bundle_sha256": "" if bundle is None else bundle.manifest.sha256,
            "graph": self.encoder.graph,
            "backend": self.encoder.backend.name,
            "dim": self.encoder.dim,
            "inputs": ["text", "image", *video],
            "roles": sorted(contract.prompt.roles),
            "certificate": self._certificate,
            "limits": {
                "items": self.options.max_items,
                "body_bytes": self.options.max_body_bytes,
                "tokens": contract.tokens.max_length,
                "visuals": contract.limits.visuals,
                "patches": contract.limits.patches,
                "source_pixels": contract.images.max_source_pixels,
            },
        }

    def close(self) -> None:
        """Ends the threads and releases the graphs."""
        # the threads first: they use the graphs
        self.scheduler.close()
        for threads in (self.readers, self.openers):
            threads.shutdown(wait=True, cancel_futures=True)
        self.encoder.close()


def _certificate_facts(encoder: Encoder) -> dict[str, Any] | None:
    if encoder.bundle is None:
        return None
    certificate = read_certificate(Path(encoder.bundle.folder))
    date = certificate.environment.get("date", "unknown")
    return {"passed": certificate.passed, "rows": len(certificate.rows), "date": date}


def _folder_name(encoder: Encoder) -> str:
    return "lame" if encoder.bundle is None else Path(encoder.bundle.folder).resolve().name
