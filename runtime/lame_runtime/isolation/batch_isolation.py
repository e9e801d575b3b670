"""Runs batches so that a bad input fails alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from lame_runtime.contract.batch import Floats
from lame_runtime.contract.preparer import Prepared

logger = logging.getLogger(__name__)

SHORTEST = 1e-12
"""Euclidean length below which a vector counts as all zeros, as in `contract.vectors`."""

Run = Callable[[Sequence[Prepared]], Floats]
"""Runs a batch and returns its vectors (n, P); may raise anything."""


def run_apart(items: Sequence[Prepared], run: Run) -> list[Floats | None]:
    """Returns the vector (P,) of each item, or None if it fails alone as well.

    If nothing succeeds, the backend may be what fails: the caller runs a probe.
    """
    # the usual case: one run, and nothing to do again
    vectors = run_once(items, run)
    # once more and alone, so that one bad item fails alone
    for row, vector in enumerate(vectors):
        if vector is None:
            vectors[row] = run_once([items[row]], run)[0]
    return vectors


def run_once(items: Sequence[Prepared], run: Run) -> list[Floats | None]:
    """Runs a batch; None stands for what failed."""
    try:
        vectors = run(items)
    # whatever a backend raises: who calls this has to outlive it
    except Exception as error:
        logger.warning("a batch of %d inputs failed: %s", len(items), error)
        return [None] * len(items)
    with np.errstate(all="ignore"):
        # NaN and infinity make the length so, and one bad row must not fail the others
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    # as `finish` would find, but by row
    good = np.isfinite(lengths) & (lengths >= SHORTEST)
    return [vector if fine else None for vector, fine in zip(vectors, good, strict=True)]
