"""Makes the certificate rows about retrieval: every graph against PyTorch on evaluation rows."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from lame_runtime.bundle.certificate import Result
from lame_runtime.bundle.golden import Golden
from lame_runtime.contract.batch import Floats
from lame_runtime.contract.prompts import Input, distinct_inputs
from lame_runtime.contract.vectors import finish, quantize, restore
from lame_runtime.parity import gates
from lame_runtime.parity.compare import similarity
from lame_runtime.parity.gates import judge
from lame_training.evaluation.retrieval import RankedPool, Vectors, embed_rows, evaluate

TOP = 10
"""Number of nearest documents that two sets of vectors are compared on."""
PoolsByTask = dict[str, list[RankedPool]]


def retrieval_rows(
    graph: str,
    reference: Vectors,
    vectors: Vectors,
    rows: PoolsByTask,
    *,
    gated: bool,
    note: str,
) -> list[Result]:
    """Compares hit@1 and nearest documents of a graph with PyTorch's, per pair of modalities.

    Rows are gated for INT8 graphs over at least `gates.RETRIEVAL_QUERIES` queries, and reported
    otherwise.

    Args:
        graph: name of the graph.
        reference: PyTorch's vectors.
        vectors: the graph's vectors.
        rows: the evaluation rows of each task.
        gated: whether rows may have a gate; without, all are reported.
        note: appended to the comparison's name, such as "emulated".
    """
    comparison = "retrieval vs PyTorch" + (f", {note}" if note else "")
    gated = gated and graph.startswith("int8")
    return _rows(comparison, graph, reference, vectors, rows, gated=gated)


def vector_rows(
    reference: Vectors, rows: PoolsByTask, golden: Golden, note: str = ""
) -> list[Result]:
    """Measures the loss from fewer bits and shorter prefixes of PyTorch's vectors, ungated.

    Args:
        reference: PyTorch's vectors.
        rows: the evaluation rows of each task.
        golden: the golden vectors, whose range 8-bit vectors have.
        note: appended to the comparisons' names, such as "built-in data".
    """
    dim = golden.embeddings.shape[1]
    # the range that the runtime uses for 8-bit vectors, too
    largest = float(np.abs(golden.embeddings).max())

    def as_int8(vectors: Floats) -> Floats:
        return restore(quantize(vectors, "int8", largest), "int8", dim)

    def as_bits(vectors: Floats) -> Floats:
        return restore(quantize(vectors, "binary", largest), "binary", dim)

    # unsigned types hold the same values with an offset, so their figures are equal
    forms: dict[str, Callable[[Floats], Floats]] = {
        "int8, uint8": as_int8,
        "binary, ubinary": as_bits,
    }
    # Matryoshka prefixes, as `truncate_dim` returns them
    for length in (dim // 2, dim // 4):
        forms[f"the first {length} values"] = functools.partial(finish, truncate_dim=length)
    results = []
    for name, form in forms.items():
        vectors = embed_rows(functools.partial(_converted, reference, form), rows)
        comparison = f"vectors as {name} vs float32" + (f", {note}" if note else "")
        results += _rows(comparison, "", reference, vectors, rows, gated=False)
    return results


def _converted(
    reference: Vectors, form: Callable[[Floats], Floats], items: list[Input], role: str
) -> Floats:
    """Returns PyTorch's vectors of some inputs in another form, in place of an encoder."""
    if role == "query":
        return form(np.stack([reference.query(item) for item in items]))
    return form(reference.documents(items))


def _rows(
    comparison: str,
    graph: str,
    reference: Vectors,
    vectors: Vectors,
    rows: PoolsByTask,
    *,
    gated: bool,
) -> list[Result]:
    """Returns one row per pair of modalities."""
    pairs: dict[str, PoolsByTask] = defaultdict(lambda: defaultdict(list))
    for task, pools in rows.items():
        for pool in pools:
            pair = f"{pool.query.modality} → {pool.candidates[0].modality}"
            pairs[pair][task].append(pool)
    results = []
    for pair, by_task in sorted(pairs.items()):
        queries = [pool.query for pools in by_task.values() for pool in pools]
        documents = distinct_inputs(
            item for pools in by_task.values() for pool in pools for item in pool.candidates
        )
        # positive if the graph finds fewer right documents than PyTorch
        drop = _hit_at_1(by_task, reference) - _hit_at_1(by_task, vectors)
        figure = {"recall_drop": drop, **_agreement(queries, documents, reference, vectors)}
        gate = gates.RETRIEVAL if gated and len(queries) >= gates.RETRIEVAL_QUERIES else None
        results.append(judge(comparison, graph, pair, len(queries), gate, figure))
    return results


def _hit_at_1(rows: PoolsByTask, vectors: Vectors) -> float:
    # over all queries, so a task weighs as much as its number of queries
    ranks = [rank for result in evaluate(rows, vectors) for rank in result.ranks]
    return float(np.mean([rank == 0 for rank in ranks]))


def _agreement(
    queries: list[Input], documents: list[Input], reference: Vectors, vectors: Vectors
) -> dict[str, float]:
    """Compares the nearest documents of two sets of vectors, and their cosines if possible."""
    # a query that occurs in several rows has the same neighbors each time
    unique = distinct_inputs(queries)
    query_vectors, document_vectors, nearest = [], [], []
    for source in (reference, vectors):
        rows = np.stack([source.query(query) for query in unique])
        columns = source.documents(documents)
        query_vectors.append(rows)
        document_vectors.append(columns)
        # stable, so that equal scores keep the same order on both sides
        nearest.append(np.argsort(-(rows @ columns.T), axis=1, kind="stable")[:, :TOP])
    overlap = [
        len(set(first) & set(second)) / len(first) for first, second in zip(*nearest, strict=True)
    ]
    figure = {
        "top10_overlap": float(np.mean(overlap)),
        "top1_agreement": float(np.mean(nearest[0][:, 0] == nearest[1][:, 0])),
        "distinct_queries": len(unique),
    }
    exact, approximate = (
        np.concatenate(pair) for pair in zip(query_vectors, document_vectors, strict=True)
    )
    # prefixes are shorter than whole vectors, so there is no cosine between them
    if exact.shape == approximate.shape:
        cosines = similarity(approximate, exact)
        figure |= {name: cosines[name] for name in ("mean_cosine", "min_cosine")}
    return figure
