"""Runs batches, tries failed ones item by item, and tells a bad item from a failing backend."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from lame_runtime.contract.batch import Floats, assemble
from lame_runtime.contract.preparer import Prepared
from lame_runtime.encoder import Encoder
from lame_runtime.serving.figures import Figures
from lame_runtime.serving.health import Health
from lame_runtime.serving.probes import Probe

logger = logging.getLogger(__name__)

_SHORTEST = 1e-12
"""Euclidean length below which a vector counts as all zeros, as in `contract.vectors`."""


class BackendRunner:
    """Runs batches on the backend; one thread calls it.

    Args:
        encoder: gives the contract and the backend.
        probe: an input with a known vector.
        health: told of every run.
        figures: counts runs.
    """

    def __init__(self, encoder: Encoder, probe: Probe, health: Health, figures: Figures) -> None:
        self._encoder = encoder
        self._probe = probe
        self._health = health
        self._figures = figures
        self.is_ending = False
        """Whether nobody waits for vectors any more, so that failures say nothing."""

    def run(self, items: Sequence[Prepared]) -> list[Floats | None]:
        """Returns the vector (P,) of each item, or None if it fails alone as well.

        If nothing succeeds, the probe decides whether the backend fails; `Health.is_lost` tells.
        """
        # the usual case: one run, and nothing to do again
        vectors = self._try(items)
        # once more and alone, so that one bad item fails alone
        for row, vector in enumerate(vectors):
            if vector is None and not self.is_ending:
                vectors[row] = self._try([items[row]])[0]
        # an input that nothing can embed and a lost device look the same until then
        if all(vector is None for vector in vectors) and not self.is_ending:
            self.probe()
        return vectors

    def probe(self) -> bool:
        """Runs the probe and returns whether its vector is what it was; tells `Health`."""
        vector = self._try([self._probe.prepared])[0]
        passed = vector is not None and self._probe.accepts(vector)
        if passed:
            self._health.recovered()
        else:
            self._health.lost()
        return passed

    def _try(self, items: Sequence[Prepared]) -> list[Floats | None]:
        """Runs a batch; None stands for what failed."""
        self._health.begin()
        try:
            with self._figures.measured_run(items):
                batch = assemble(items, self._encoder.preparer.contract)
                vectors = self._encoder.backend.run(batch)
        # whatever a backend raises: the thread has to outlive it
        except Exception as error:
            # a long run outlives the graphs that it uses
            if not self.is_ending:
                logger.warning("a batch of %d inputs failed: %s", len(items), error)
            return [None] * len(items)
        finally:
            self._health.end()
        with np.errstate(all="ignore"):
            # NaN and infinity make the length so, and one bad row must not fail the others
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        # as `finish` would find, but by row
        good = np.isfinite(lengths) & (lengths >= _SHORTEST)
        if good.any():
            self._health.succeeded()
        return [vector if fine else None for vector, fine in zip(vectors, good, strict=True)]
