"""Embeds requests to Triton together, keeps their errors apart, and knows whether that works."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.backends.base import ProfiledBackend
from lame_runtime.bundle.certificate import holds
from lame_runtime.bundle.golden import EXTREMES, Golden
from lame_runtime.contract.batch import assemble
from lame_runtime.contract.vectors import finish
from lame_runtime.encoder import Encoder
from lame_runtime.errors import (
    BackendError,
    DeviceError,
    InputError,
    LameError,
    ProofError,
    UsageError,
    without_quotes,
)
from lame_runtime.integrations.triton.triton_requests import TritonRequest, read_request
from lame_runtime.parity import gates
from lame_runtime.parity.compare import embed_golden, similarity

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Raw = tuple[Mapping[str, Sequence[bytes]], Mapping[str, Any]]
"""Tensors and parameters of one request, as `read_request` takes them."""
FRESH_SECONDS = 30.0
"""Time for which a batch that went through shows that the next one will."""
_FAILED = "the model could not embed this; see the log of the server"
"""Message of errors that are not the client's, whose cause may tell about the machine."""


class TritonService:
    """Embeds lists of requests with one encoder, which it proves first.

    Args:
        encoder: loaded from a bundle; `close` closes it.
        allow_video: take encoded videos, too.

    Raises:
        ProofError: the graph does not reproduce the bundle's golden vectors here.
        BackendError: the graph cannot run.
        BundleError: the golden files differ from the exported ones.
        UsageError: the encoder was not loaded from a bundle.
    """

    def __init__(self, encoder: Encoder, *, allow_video: bool = False) -> None:
        if encoder.bundle is None:
            raise UsageError("`encoder` was not loaded from a bundle; use `Encoder.load`")
        self.encoder = encoder
        self.allow_video = allow_video
        # changed golden vectors could prove a changed graph
        encoder.bundle.check_golden()
        self._golden = _cheapest(encoder, encoder.bundle.golden())
        self._went_through_at = -math.inf
        self._prove(self._golden)

    def embed(self, requests: Sequence[Raw]) -> list[Vectors | LameError]:
        """Embeds the inputs of all requests in one call of the encoder.

        A request that cannot be read or embedded gets an error and does not change the others.
        Errors of the machine have a message of their own, because clients are strangers; the log
        holds the cause.

        Returns:
            For each request, float32 (rows, P or `dimensions`), unit rows, or its error.
        """
        outcomes: list[Any] = [self._read(raw) for raw in requests]
        for truncate in (False, True):
            # `encode` cuts the texts of all inputs or of none
            numbers = [
                number
                for number, request in enumerate(outcomes)
                if isinstance(request, TritonRequest) and request.truncate == truncate
            ]
            embedded = self._embed([outcomes[number] for number in numbers])
            for number, outcome in zip(numbers, embedded, strict=True):
                outcomes[number] = outcome
        return [
            _for_clients(outcome) if isinstance(outcome, LameError) else outcome
            for outcome in outcomes
        ]

    def is_ready(self) -> bool:
        """Returns whether a batch has gone through lately, or a golden input goes through now."""
        if time.monotonic() - self._went_through_at < FRESH_SECONDS:
            return True
        try:
            # the shortest one alone, because the server waits only a few seconds for the answer
            self._prove(self._golden.subset([0]))
        # whatever a lost device raises
        except Exception as error:
            logger.warning("not ready: %s", error)
            return False
        return True

    def close(self) -> None:
        """Releases the graphs."""
        self.encoder.close()

    def _read(self, raw: Raw) -> TritonRequest | LameError:
        contract = self.encoder.preparer.contract
        try:
            return read_request(*raw, contract, allow_video=self.allow_video)
        except LameError as error:
            return error
        # a fault of ours must not cost the requests of others
        except Exception:
            logger.exception("a request could not be read")
            return BackendError(_FAILED)

    def _embed(self, requests: list[TritonRequest]) -> list[Vectors | LameError]:
        """Embeds requests together; if that fails, those without fault together, or each alone."""
        if not requests:
            return []
        is_single = len(requests) == 1
        problems: list[LameError | None] = [None] * len(requests)
        try:
            return list(self._run(requests))
        except InputError as error:
            if is_single:
                return [error]
            # whose inputs cannot be prepared; one at a time, because pictures take memory
            problems = [self._problem(request) for request in requests]
        # whatever ONNX Runtime or a driver raises: the process must outlive it
        except Exception as error:
            self._went_through_at = -math.inf
            logger.exception("a batch of %d requests failed", len(requests))
            if is_single:
                kind = DeviceError if isinstance(error, DeviceError) else BackendError
                return [kind(_FAILED)]
        good = [request for request, error in zip(requests, problems, strict=True) if not error]
        if len(good) == len(requests):
            # nobody's input is at fault, so each is tried once by itself
            return [outcome for request in requests for outcome in self._embed([request])]
        # together, or a client that sends bad pictures would undo everyone's batches
        rest = iter(self._embed(good))
        return [error or next(rest) for error in problems]

    def _run(self, requests: list[TritonRequest]) -> list[Vectors]:
        """Embeds all inputs in one call, and returns the vectors of each request."""
        items = [item for request in requests for item in request.items]
        # unit length comes last, because each request may keep another number of values
        vectors = self.encoder.encode(
            items, truncate=requests[0].truncate, normalize_embeddings=False
        )
        ends = np.cumsum([len(request.items) for request in requests])
        outcomes = [
            finish(rows, truncate_dim=request.dimensions)
            for rows, request in zip(np.split(vectors, ends[:-1]), requests, strict=True)
        ]
        self._went_through_at = time.monotonic()
        return outcomes

    def _problem(self, request: TritonRequest) -> LameError | None:
        """Returns why an input of a request cannot be prepared; None if all can."""
        for number, item in enumerate(request.items):
            try:
                self.encoder.preparer(item, truncate=request.truncate)
            except InputError as error:
                return InputError(f"input {number}: {error}")
            except Exception:
                logger.exception("an input could not be prepared")
                return BackendError(_FAILED)
        return None

    def _prove(self, golden: Golden) -> None:
        """Runs golden inputs through the graph; raises `ProofError` if a bound is not met."""
        graph = self.encoder.graph
        # a mean over few inputs is not the mean that was certified
        bounds = {
            name: bound
            for name, bound in gates.bounds(gates.GRAPH_VS_PYTORCH, graph).items()
            if not name.startswith("mean")
        }
        vectors = embed_golden(self.encoder, golden, range(len(golden.inputs)), 32)
        figures = similarity(vectors, golden.embeddings)
        if not holds(figures, bounds):
            raise ProofError(
                f"graph {graph} does not reproduce the golden vectors here (min_cosine "
                f"{figures['min_cosine']:.6f}); run `lame-runtime verify` on this machine"
            )
        self._went_through_at = time.monotonic()


def _for_clients(error: LameError) -> LameError:
    """Returns an error whose message quotes no other library and names the client's options."""
    return type(error)(
        without_quotes(str(error)).replace("pass `truncate=True`", "set `truncate` to END")
    )


def _cheapest(encoder: Encoder, golden: Golden) -> Golden:
    """Returns the shortest golden input of each modality, the shortest of all first.

    Inputs that fit no profile of TensorRT plans are left out: loading has proved the plans already.
    """
    modalities = [name for name in golden.modalities if name not in EXTREMES]
    shortest = [
        min(golden.of(name), key=lambda index: len(golden.inputs[index].ids))
        for name in modalities or golden.modalities
    ]
    backend, preparer = encoder.backend, encoder.preparer
    if isinstance(backend, ProfiledBackend):
        batches = [
            assemble([golden.inputs[index].prepare(preparer)], preparer.contract)
            for index in shortest
        ]
        shortest = [
            index for index, batch in zip(shortest, batches, strict=True) if backend.takes(batch)
        ]
    return golden.subset(sorted(shortest, key=lambda index: len(golden.inputs[index].ids)))
