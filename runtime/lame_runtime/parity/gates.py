"""Defines the gates of parity, used when a bundle is exported and again on each device.

A gate is a set of bounds on named figures. Figures:
    min_cosine, mean_cosine   between two embeddings of the same input
    max_abs                   largest difference between components of two unit vectors
    mismatches                number of inputs whose ids, positions, patches or files differ
    non_finite                number of values that are NaN or infinite
    recall_drop               hit@1 of PyTorch minus hit@1 of the graph
    top10_overlap             mean share of the ten nearest documents that both return
    distinct_queries          number of distinct queries that top10_overlap averages
    problems                  number of problems that a checker reports
    built                     number of a graph's files that TensorRT built a plan from
"""

from __future__ import annotations

from collections.abc import Mapping

from lame_runtime.bundle.certificate import Bounds, Result, holds
from lame_runtime.errors import BundleError, shown

# 4-bit weights leave the largest error, FP32 only that of another order of summation.
GRAPH_VS_PYTORCH: dict[str, Bounds] = {
    "fp32": {"min_cosine": (">=", 0.99999), "max_abs": ("<=", 1e-4)},
    "fp32-cpu": {"min_cosine": (">=", 0.99999), "max_abs": ("<=", 1e-4)},
    "fp16": {"min_cosine": (">=", 0.999), "mean_cosine": (">=", 0.9995)},
    "int8": {"mean_cosine": (">=", 0.99), "min_cosine": (">=", 0.97)},
    "int8-cpu": {"mean_cosine": (">=", 0.99), "min_cosine": (">=", 0.97)},
    "w8-cpu": {"mean_cosine": (">=", 0.998), "min_cosine": (">=", 0.995)},
    "w4-cpu": {"mean_cosine": (">=", 0.95), "min_cosine": (">=", 0.9)},
}
"""Bounds on the embeddings of each graph against PyTorch's in FP32, by graph."""
ALONE_VS_BATCH: dict[str, Bounds] = {
    "fp32": {"min_cosine": (">=", 0.9999)},
    "fp32-cpu": {"min_cosine": (">=", 0.9999)},
    "fp16": {"min_cosine": (">=", 0.9999)},
    "int8": {"min_cosine": (">=", 0.9999)},
    "int8-cpu": {"min_cosine": (">=", 0.9999)},
    "w8-cpu": {"min_cosine": (">=", 0.9999)},
    "w4-cpu": {"min_cosine": (">=", 0.9999)},
}
"""Bounds on the embedding of a single input against that of the same input in a padded batch.
"""
GOLDEN_VS_PYTORCH: Bounds = {"max_abs": ("<=", 1e-5)}
"""Bounds on a bundle's golden embeddings against new ones from its checkpoint."""
CONTRACT: Bounds = {"mismatches": ("<=", 0)}
"""Bounds on preprocessing, which is exact: ids, positions and patches must be equal."""
TRACED_VS_TRANSFORMERS: Bounds = {"max_abs": ("<=", 1e-5)}
FINITE: Bounds = {"non_finite": ("<=", 0)}
RETRIEVAL: Bounds = {"recall_drop": ("<=", 0.01), "top10_overlap": (">=", 0.9)}
"""Bounds for INT8 graphs of a trained model, per pair of modalities."""
RETRIEVAL_QUERIES = 500
"""Minimum number of queries for the gate on retrieval; with fewer, 1 % of hit@1 is noise.
"""
CHECKED: Bounds = {"problems": ("<=", 0)}
"""Bounds on the problems that `onnx.checker` and the linter report, for every graph."""
BUILT: Bounds = {"built": (">=", 2)}


def judge(
    comparison: str,
    graph: str,
    modality: str,
    inputs: int,
    gate: Bounds | None,
    figure: Mapping[str, float],
    reason: str = "",
) -> Result:
    """Returns a row of a certificate, which passes if its figures are within the bounds.

    Args:
        comparison: name of the comparison.
        graph: name of the graph, or an empty string.
        modality: modality of the inputs.
        inputs: number of inputs that the figures were measured on.
        gate: the bounds; None only reports the figures.
        figure: the figures by name. A figure that is NaN or missing fails its bound.
        reason: reason why the graph did not run.
    """
    passed = None if gate is None else holds(figure, gate)
    return Result(comparison, graph, modality, inputs, gate, dict(figure), passed, reason)


def bounds(table: Mapping[str, Bounds], graph: str) -> Bounds:
    """Returns the gate of a graph.

    Args:
        table: `GRAPH_VS_PYTORCH` or `ALONE_VS_BATCH`.
        graph: name of the graph.

    Raises:
        BundleError: there is none: a newer exporter wrote the graph, or somebody made up its name.
    """
    if graph not in table:
        raise BundleError(
            f"graph {shown(graph)} has no gates here (known: {', '.join(table)}); "
            "upgrade lame-runtime, or verify the other graphs by name"
        )
    return table[graph]
