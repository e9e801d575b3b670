"""Attention over blocks of queries, so that no run holds the scores of all of them at once.

Scores take (batch, heads, queries, keys): 4 GB for 8,192 tokens and 16 heads, 17 GB for 16,384
patches. A query's softmax reads its own scores only, so that attention over some of the queries at
a time gives the same rows in memory that does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

Feeds = dict[str, np.ndarray[Any, Any]]
"""Arrays by name, for the inputs or the outputs of one run."""

MAX_SCORES = 1 << 22
"""Scores per head up to which a run computes attention at once: 268 MB for 16 heads."""
BLOCK_SCORES = 1 << 24
"""Scores of all heads in one block of queries: 64 MB, of which a few are held at a time."""


@dataclass(frozen=True)
class Attention:
    """The nodes from the scores to the weighted sum of the values, next to each other."""

    nodes: list[ir.Node]
    """In the graph's order: MatMul, masking, rounding, Softmax, MatMul."""

    def by_query(self) -> list[str]:
        """Returns the names of the inputs that have a row per query: queries and masks."""
        scores = self.nodes[0]
        masks = [node.inputs[0] for node in self.nodes if node.op_type == "Where"]
        return [value.name or "" for value in (scores.inputs[0], *masks) if value is not None]


def needs_blocks(feeds: Feeds) -> bool:
    """Returns whether one run over inputs of a vision or encoder graph has too many scores."""
    if "frames" in feeds:
        batch, _, length, _ = feeds["frames"].shape
    elif "input_ids" in feeds:
        batch, length = feeds["input_ids"].shape
    else:
        return False
    return bool(batch * length**2 > MAX_SCORES)


def gather_attentions(graph: ir.Graph) -> list[Attention]:
    """Moves the nodes of each attention next to each other, in place, and returns them.

    before   MatMul(q, k) ─ Where(mask) ─ …v's own nodes… ─ Softmax ─ MatMul(v)
    after    …v's own nodes… ─ MatMul(q, k) ─ Where(mask) ─ Softmax ─ MatMul(v)
    """
    attentions = []
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        scores = _scores_of(softmax)
        if scores is None:
            continue
        between, last = _between(scores)
        ordered = [node for node in graph if node in between]
        graph.remove(ordered)
        graph.insert_before(last, ordered)
        attentions.append(Attention([*ordered, last]))
    return attentions


def _scores_of(softmax: ir.Node) -> ir.Node | None:
    """Returns the MatMul of two activations whose result a Softmax reads, if there is one."""
    node: ir.Node | None = softmax
    while node is not None and node.op_type != "MatMul":
        value = node.inputs[1 if node.op_type == "Where" else 0]
        node = None if value is None else value.producer()
    # a router's scores are no attention: they are a product with a weight
    is_router = node is not None and node.inputs[1] is not None and node.inputs[1].is_initializer()
    return None if is_router else node


def _between(scores: ir.Node) -> tuple[set[ir.Node], ir.Node]:
    """Returns the nodes that the scores go through, theirs included, and the MatMul after them."""
    between, last, waiting = {scores}, scores, [scores]
    while waiting:
        for output in waiting.pop().outputs:
            for reader, _ in output.uses():
                if reader.op_type == "MatMul":
                    last = reader
                elif reader not in between:
                    between.add(reader)
                    waiting.append(reader)
    return between, last


def run_by_query(run: Callable[[Feeds], Feeds], feeds: Feeds, by_query: Sequence[str]) -> Feeds:
    """Runs one attention over blocks of its queries.

    Args:
        run: computes the attention of some queries.
        feeds: its inputs; the first of `by_query` are the queries, (…, queries, width).
        by_query: names of the inputs that are cut along their second-to-last axis, unless they have
            a single row there for all queries.

    Returns:
        The outputs of all queries. A scalar, which measures what a run computed, is the largest of
        the blocks' scalars.
    """
    queries = feeds[by_query[0]]
    count = queries.shape[-2]
    keys = max(feed.shape[-1] for name, feed in feeds.items() if name != by_query[0] and feed.ndim)
    scores = int(np.prod(queries.shape[:-2])) * keys
    size = max(1, BLOCK_SCORES // max(1, scores))
    if size >= count:
        return run(feeds)
    blocks = [
        run({**feeds, **_rows(feeds, by_query, slice(start, start + size), count)})
        for start in range(0, count, size)
    ]
    return {
        name: np.concatenate([block[name] for block in blocks], axis=-2)
        if value.ndim
        else np.max([block[name] for block in blocks])
        for name, value in blocks[0].items()
    }


def _rows(feeds: Feeds, by_query: Sequence[str], rows: slice, count: int) -> Feeds:
    """Returns the given rows of the inputs that have one per query."""
    return {
        name: np.ascontiguousarray(feeds[name][..., rows, :])
        for name in by_query
        if feeds[name].shape[-2] == count
    }
