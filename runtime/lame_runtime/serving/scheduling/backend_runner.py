"""Runs batches, tries failed ones item by item, and tells a bad item from a failing backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lame_runtime.contract.batch import Floats, assemble
from lame_runtime.contract.preparer import Prepared
from lame_runtime.encoder import Encoder
from lame_runtime.isolation.batch_isolation import run_apart, run_once
from lame_runtime.isolation.probes import Probe
from lame_runtime.serving.figures import Figures
from lame_runtime.serving.health import Health


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
        vectors = run_apart(items, self._run)
        self._note(vectors)
        # an input that nothing can embed and a lost device look the same until then
        if all(vector is None for vector in vectors) and not self.is_ending:
            self.probe()
        return vectors

    def probe(self) -> bool:
        """Runs the probe and returns whether its vector is what it was; tells `Health`."""
        (vector,) = run_once([self._probe.prepared], self._run)
        self._note([vector])
        passed = vector is not None and self._probe.accepts(vector)
        if passed:
            self._health.recovered()
        else:
            self._health.lost()
        return passed

    def _run(self, items: Sequence[Prepared]) -> Floats:
        self._health.begin()
        try:
            with self._figures.measured_run(items):
                batch = assemble(items, self._encoder.preparer.contract)
                return self._encoder.backend.run(batch)
        except Exception:
            if not self.is_ending:
                raise
            # a long run outlives the graphs that it uses; NaN stands for what failed, unlogged
            return np.full((len(items), self._encoder.dim), np.nan, dtype=np.float32)
        finally:
            self._health.end()

    def _note(self, vectors: Sequence[Floats | None]) -> None:
        if any(vector is not None for vector in vectors):
            self._health.succeeded()
