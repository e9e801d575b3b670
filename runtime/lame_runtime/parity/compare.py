"""Compares an encoder with the golden vectors, for the certificate rows that need no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lame_runtime.bundle.certificate import Result
from lame_runtime.bundle.golden import Golden, fingerprint
from lame_runtime.contract.batch import Floats
from lame_runtime.contract.preparer import Preparer
from lame_runtime.errors import BackendError, DeviceError
from lame_runtime.parity import gates
from lame_runtime.parity.embeds import Embeds
from lame_runtime.parity.gates import judge

BATCH_SIZE = 32


def contract_rows(preparer: Preparer, golden: Golden) -> list[Result]:
    """Compares this device's preprocessing of the golden inputs with what was recorded.

    Returns:
        One row per modality; its figure is the number of inputs whose ids, positions or patches
        differ.

    Raises:
        BundleError: the contract refuses an input.
    """
    rows = []
    for modality in golden.modalities:
        indices = golden.of(modality)
        mismatches = 0
        for index in indices:
            expected = golden.inputs[index]
            actual = fingerprint(expected.prepare(preparer), preparer)
            # an input counts once, no matter how many of the three differ
            mismatches += actual != (expected.ids, expected.positions, expected.patches)
        figure = {"mismatches": mismatches}
        row = judge("contract vs golden", "", modality, len(indices), gates.CONTRACT, figure)
        rows.append(row)
    return rows


def graph_rows(encoder: Embeds, graph: str, golden: Golden, note: str = "") -> list[Result]:
    """Compares one graph with PyTorch's golden embeddings.

    Args:
        encoder: runs the graph.
        graph: name of the graph, which selects the gates.
        golden: inputs and expected embeddings.
        note: appended to the names of the comparisons, such as "emulated".

    Returns:
        One row per modality, one for single against batched inputs, and one for finite values.

    Raises:
        DeviceError: the GPU failed, which does not mean that the graph is wrong.
    """
    suffix = f", {note}" if note else ""
    vectors, reason = _embed_all(encoder, golden, BATCH_SIZE)
    # a graph that failed in batches is not run again
    if reason:
        alone = vectors
    else:
        # one input per run, to show that padding and other inputs do not change a vector
        alone, reason = _embed_all(encoder, golden, 1)
    rows = []
    for modality in golden.modalities:
        indices = golden.of(modality)
        rows.append(
            judge(
                f"graph vs PyTorch{suffix}",
                graph,
                modality,
                len(indices),
                gates.bounds(gates.GRAPH_VS_PYTORCH, graph),
                similarity(vectors[indices], golden.embeddings[indices]),
                reason,
            )
        )
    figures = (
        (
            "alone vs in a batch",
            gates.bounds(gates.ALONE_VS_BATCH, graph),
            {"min_cosine": similarity(vectors, alone)["min_cosine"]},
        ),
        ("finite", gates.FINITE, {"non_finite": int((~np.isfinite(vectors)).sum())}),
    )
    rows += [
        judge(f"{comparison}{suffix}", graph, "mixed", len(vectors), gate, figure, reason)
        for comparison, gate, figure in figures
    ]
    return rows


def profile_row(encoder: Embeds, golden: Golden, note: str, batch_size: int) -> Result:
    """Compares one graph with PyTorch's golden embeddings in a single row.

    Args:
        encoder: runs the graph, restricted to one profile.
        golden: the inputs that fit the profile.
        note: name of the profile.
        batch_size: inputs per run.

    Raises:
        DeviceError: the GPU failed.
    """
    vectors, reason = _embed_all(encoder, golden, batch_size)
    return judge(
        f"graph vs PyTorch, {note}",
        encoder.graph,
        "mixed",
        len(vectors),
        gates.bounds(gates.GRAPH_VS_PYTORCH, encoder.graph),
        similarity(vectors, golden.embeddings),
        reason,
    )


def embed_golden(
    encoder: Embeds, golden: Golden, indices: Sequence[int], batch_size: int
) -> Floats:
    """Embeds golden inputs with the roles that they were recorded with.

    Returns:
        float32 (n, P), one row per index.

    Raises:
        BackendError: the graph failed or returned a value that is not finite.
    """
    places_by_role: dict[str, list[int]] = {}
    for place, index in enumerate(indices):
        places_by_role.setdefault(golden.inputs[index].role, []).append(place)
    # `encode` takes one role for all inputs, so there is one call per role
    vectors = np.empty((len(indices), encoder.dim), dtype=np.float32)
    for role, places in places_by_role.items():
        items = [golden.inputs[indices[place]].item for place in places]
        vectors[places] = encoder.encode(items, role=role, batch_size=batch_size)
    return vectors


def similarity(vectors: Floats, expected: Floats) -> dict[str, float]:
    """Returns min_cosine, mean_cosine and max_abs between the rows of two arrays (n, P)."""
    # in FP64, because in FP32 the rounding of cosines near 1 is as large as the FP32 gate
    a, b = vectors.astype(np.float64), expected.astype(np.float64)
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {
        "min_cosine": float(cosine.min()),
        "mean_cosine": float(cosine.mean()),
        "max_abs": float(np.abs(a - b).max()),
    }


def _embed_all(encoder: Embeds, golden: Golden, batch_size: int) -> tuple[Floats, str]:
    """Embeds all golden inputs; returns NaN and the reason if the graph fails.

    A failed graph is reported in a row. A failed GPU raises `DeviceError` instead.
    """
    try:
        return embed_golden(encoder, golden, range(len(golden.inputs)), batch_size), ""
    except DeviceError:
        # a subclass of `BackendError`, so it has to be caught first
        raise
    except BackendError as error:
        # NaN fails every gate, so the rows fail with the reason
        return np.full(golden.embeddings.shape, np.nan, dtype=np.float32), str(error)
