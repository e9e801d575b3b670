"""Golden inputs that go through at the start, and the shortest of them again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lame_runtime.bundle.golden import EXTREMES, Golden
from lame_runtime.contract.batch import Floats, assemble
from lame_runtime.contract.preparer import Prepared
from lame_runtime.encoder import Encoder
from lame_runtime.errors import ProofError, UsageError, shown
from lame_runtime.parity.compare import similarity
from lame_runtime.parity.gates import GRAPH_VS_PYTORCH


@dataclass(frozen=True)
class Probe:
    """A golden input, prepared, with its vector in PyTorch and how near the graph must come."""

    prepared: Prepared
    expected: Floats
    """float32 (P,)."""
    min_cosine: float

    def accepts(self, vector: Floats) -> bool:
        """Returns whether a vector (P,) is near enough to the expected one."""
        figure = similarity(vector[np.newaxis], self.expected[np.newaxis])["min_cosine"]
        return figure >= self.min_cosine  # false for NaN


def warm_up(encoder: Encoder) -> Probe:
    """Runs one golden input of each kind, and returns the shortest of them as the probe.

    The first run of each kind takes longer than later ones, and shows whether the graph gives the
    vectors that it was certified with.

    Raises:
        ProofError: a vector is not that of the bundle.
        BackendError: the graph failed.
        BundleError: the golden files are damaged.
        UsageError: the encoder was not loaded from a bundle.
    """
    if encoder.bundle is None:
        raise UsageError("a probe needs an encoder of a bundle; use `Encoder.load`")
    golden = encoder.bundle.golden()
    # the loop ends at the first wrong vector: one is enough to stop
    probes = []
    for modality, number in _first_of_each_kind(golden).items():
        prepared = golden.inputs[number].prepare(encoder.preparer)
        probe = Probe(prepared, golden.embeddings[number], _gate(encoder.graph))
        vector = encoder.backend.run(assemble([prepared], encoder.preparer.contract))[0]
        if not probe.accepts(vector):
            raise ProofError(
                f"the graph {shown(encoder.graph)} does not give the bundle's vector of a golden "
                f"input ({modality}); run `lame-runtime verify` on this device"
            )
        probes.append(probe)
    # the shortest, since it runs again and again on a server without traffic
    return min(probes, key=lambda probe: (len(probe.prepared.visuals), len(probe.prepared.ids)))


def _first_of_each_kind(golden: Golden) -> dict[str, int]:
    # the largest inputs take minutes on a CPU, and `verify` runs them
    kinds = [kind for kind in golden.modalities if kind not in EXTREMES] or golden.modalities
    return {kind: golden.of(kind)[0] for kind in kinds}


def _gate(graph: str) -> float:
    """Returns the least cosine with PyTorch's vector; a graph without a gate must only run."""
    # the bound of the certificate, which the same graph has met before
    bound = GRAPH_VS_PYTORCH.get(graph, {}).get("min_cosine")
    return -1.0 if bound is None else float(bound[1])
