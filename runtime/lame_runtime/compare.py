"""Golden vectors against an encoder: the certificate's rows that need no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lame_runtime import gates
from lame_runtime.contract.preparer import Preparer
from lame_runtime.encoder import Encoder
from lame_runtime.errors import BackendError, DeviceError
from lame_runtime.gates import Result, judge
from lame_runtime.golden import Golden, fingerprint

Floats = npt.NDArray[np.float32]


def contract_rows(preparer: Preparer, golden: Golden) -> list[Result]:
    """What this machine's contract makes of the golden inputs, against what was recorded: one row per modality."""
    rows = []
    for modality in golden.modalities:
        chosen = golden.of(modality)
        wrong = 0
        for index in chosen:
            each = golden.inputs[index]
            found = fingerprint(preparer(each.item, each.role), preparer)
            wrong += found != (each.ids, each.positions, each.patches)
        rows.append(judge("contract vs golden", "", modality, len(chosen), gates.CONTRACT, {"mismatches": wrong}))
    return rows


def graph_rows(encoder: Encoder, graph: str, golden: Golden, note: str = "") -> list[Result]:
    """One graph against PyTorch's golden embeddings, per modality; alone against in a batch; finite.

    Args:
        encoder: runs the graph.
        graph: its name, which chooses the gates.
        golden: inputs and expected embeddings.
        note: said behind the comparison's name, such as "emulated".

    Raises:
        DeviceError: the GPU failed, which is no finding about the graph.
    """
    suffix = f", {note}" if note else ""
    vectors, reason = _found(encoder, golden, 32)
    alone, reason = (vectors, reason) if reason else _found(encoder, golden, 1)
    rows = []
    for modality in golden.modalities:
        chosen = golden.of(modality)
        found = similarity(vectors[chosen], golden.embeddings[chosen])
        rows.append(judge(f"graph vs PyTorch{suffix}", graph, modality, len(chosen), gates.GRAPH_VS_PYTORCH[graph], found, reason))
    close = {"min_cosine": similarity(vectors, alone)["min_cosine"]}
    rows.append(judge(f"alone vs in a batch{suffix}", graph, "mixed", len(vectors), gates.ALONE_VS_BATCH[graph], close, reason))
    bad = int((~np.isfinite(vectors)).sum())
    rows.append(judge(f"finite{suffix}", graph, "mixed", len(vectors), gates.FINITE, {"non_finite": bad}, reason))
    return rows


def profile_row(encoder: Encoder, graph: str, golden: Golden, note: str, batch_size: int) -> Result:
    """One graph against PyTorch's golden embeddings in one row, as it runs just now; `note` says how.

    Raises:
        DeviceError: the GPU failed.
    """
    vectors, reason = _found(encoder, golden, batch_size)
    figure = similarity(vectors, golden.embeddings)
    return judge(f"graph vs PyTorch, {note}", graph, "mixed", len(vectors), gates.GRAPH_VS_PYTORCH[graph], figure, reason)


def _found(encoder: Encoder, golden: Golden, batch_size: int) -> tuple[Floats, str]:
    """Vectors of all golden inputs; NaN and the reason where the graph fails, which is a finding about it rather than an end."""
    try:
        return embed_golden(encoder, golden, range(len(golden.inputs)), batch_size), ""
    except DeviceError:
        raise
    except BackendError as error:
        return np.full(golden.embeddings.shape, np.nan, dtype=np.float32), str(error)


def embed_golden(encoder: Encoder, golden: Golden, chosen: Sequence[int], batch_size: int) -> Floats:
    """Vectors of golden inputs, float32 (n, P); raises `BackendError` where the graph fails or returns what is not finite."""
    by_role: dict[str, list[int]] = {}
    for place, index in enumerate(chosen):
        by_role.setdefault(golden.inputs[index].role, []).append(place)
    vectors = np.empty((len(chosen), encoder.dim), dtype=np.float32)
    for role, places in by_role.items():
        items = [golden.inputs[chosen[place]].item for place in places]
        vectors[places] = encoder.encode(items, role=role, batch_size=batch_size)
    return vectors


def similarity(vectors: Floats, expected: Floats) -> dict[str, float]:
    """min_cosine, mean_cosine and max_abs between rows."""
    a, b = vectors.astype(np.float64), expected.astype(np.float64)
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {"min_cosine": float(cosine.min()), "mean_cosine": float(cosine.mean()), "max_abs": float(np.abs(a - b).max())}
