"""Checks that a graph takes and returns what its contract says, before it is run.

ONNX Runtime would spread a single row over a batch, and NumPy an array of another type over the
vectors. Names, types, numbers of dimensions and widths are therefore compared when a bundle is
loaded, and the arrays themselves in every run (`contract.vectors.require_floats`).
"""

from __future__ import annotations

from pathlib import Path

from lame_runtime.bundle.members import COPY_AGAIN
from lame_runtime.contract.rules import Contract, ImageRules, TokenRules
from lame_runtime.errors import BundleError, shown
from lame_runtime.files.graphs.onnx_fields import BOOL, FLOAT, INT32, INT64, TYPE_NAMES, UINT8
from lame_runtime.files.graphs.onnx_graph import Dims, GraphFacts

VISION_FIELDS = (
    "images.patch_size",
    "tower.window",
    "tower.position_side",
)
TABLES = ("table_VD", "table_VD.half", "table_VD.int8")
"""Names of the token table in exported graphs, by the type of its values."""
PATCH_KERNELS = tuple(f"patch_embed.weight_io{form}" for form in ("", ".half", ".int8"))
"""Names of the patch kernel in exported graphs, by the type of its values."""

Values = dict[str, tuple[int, Dims]]
"""Element type and sizes by name; a size that is a name fits every symbolic size."""


def vision_width(path: Path, facts: GraphFacts, contract: Contract | None) -> int:
    """Returns the width of a feature row.

    Args:
        path: the vision graph, for messages.
        facts: what the graph takes and returns.
        contract: what it has to fit; None checks the features alone.

    Raises:
        BundleError: the graph takes or returns something else.
    """
    width = _last_size(path, facts, "features")
    if contract is not None:
        _require(path, "input", facts.inputs, vision_inputs(contract), VISION_FIELDS)
        _require_depth(path, facts, contract.images)
    _require(path, "output", facts.outputs, {"features": (FLOAT, ("pictures", "merged", width))})
    return width


def encoder_dim(path: Path, facts: GraphFacts, width: int, contract: Contract | None) -> int:
    """Returns the length P of a vector.

    Args:
        path: the encoder graph, for messages.
        facts: what the graph takes and returns.
        width: width of a feature row.
        contract: what it has to fit; None takes any length.

    Raises:
        BundleError: the graph takes or returns something else.
    """
    dim = _last_size(path, facts, "sentence_embedding") if contract is None else contract.dim
    _require(path, "input", facts.inputs, encoder_inputs(width))
    _require(
        path, "output", facts.outputs, {"sentence_embedding": (FLOAT, ("batch", dim))}, ("dim",)
    )
    if contract is not None:
        _require_rows(path, facts, contract.tokens)
    return dim


def vision_inputs(contract: Contract) -> Values:
    """Returns the inputs of the vision graph, whose tables depend on the model's family."""
    side = contract.images.patch_size
    inputs: Values = {
        "frames": (UINT8, ("pictures", "depth", "patches", 3 * side**2)),
        "strip_index": (INT32, ("patches", side)),
        "patch_positions": (INT64, (2, "patches")),
    }
    if contract.tower.window:
        inputs |= {
            "window_index": (INT64, ("windows", "places")),
            "window_mask": (BOOL, ("windows", "places")),
            "window_place": (INT64, ("patches",)),
        }
    if contract.tower.position_side:
        inputs |= {
            "interpolation_index": (INT64, (4, "patches")),
            "interpolation_weight": (FLOAT, (4, "patches")),
        }
    return inputs


def encoder_inputs(width: int) -> Values:
    """Returns the inputs of the encoder graph for features of `width` values."""
    return {
        "input_ids": (INT64, ("batch", "length")),
        "features": (FLOAT, ("rows", width)),
        "feature_index": (INT64, ("batch", "length")),
        "position_ids": (INT64, (3, "batch", "length")),
        "embed_index": (INT64, ("batch",)),
    }


def _require_depth(path: Path, facts: GraphFacts, images: ImageRules) -> None:
    """Checks that the patch kernel spans as many frames as the contract's temporal patch."""
    # the input does not show it, because pictures have a single frame
    for weight in facts.weights:
        # in w8-cpu and w4-cpu it is cut into blocks, which do not tell the length of a patch
        whole = weight.name in PATCH_KERNELS and len(weight.dims) == 2
        if whole and weight.dims[0] != images.patch_dim:
            frames = weight.dims[0] * images.temporal_patch_size // images.patch_dim
            raise BundleError(
                f"{shown(path)}: its patches span {frames} frames, but the contract's "
                f"images.temporal_patch_size is {images.temporal_patch_size}; {COPY_AGAIN}"
            )


def _require_rows(path: Path, facts: GraphFacts, tokens: TokenRules) -> None:
    """Checks that the token table ends with the row of [EMBED]: other ids are those of no token."""
    rows = tokens.first_latent + tokens.n_reason + 1
    for weight in facts.weights:
        if weight.name in TABLES and weight.dims[0] != rows:
            raise BundleError(
                f"{shown(path)}: its token table has {weight.dims[0]:,} rows; the contract's "
                f"tokens.first_latent, {tokens.first_latent:,}, and tokens.n_reason, "
                f"{tokens.n_reason}, ask for {rows:,}; {COPY_AGAIN}"
            )


def _last_size(path: Path, facts: GraphFacts, name: str) -> int:
    _, dims = facts.outputs.get(name, (FLOAT, ()))
    size = dims[-1] if dims else None
    if not isinstance(size, int) or size < 1:
        raise BundleError(f"{shown(path)}: its output {name} has no fixed width; {COPY_AGAIN}")
    return size


def _require(
    path: Path, kind: str, values: Values, expected: Values, fields: tuple[str, ...] = ()
) -> None:
    # the fields of the contract that decide what is expected, since one of them may be wrong
    decided = f" by the contract's {', '.join(fields)}" if fields else ""
    if set(values) != set(expected):
        raise BundleError(
            f"{shown(path)}: has the {kind}s {shown(', '.join(sorted(values)))}; "
            f"expected {', '.join(sorted(expected))}{decided}; {COPY_AGAIN}"
        )
    for name, (element, dims) in expected.items():
        actual, sizes = values[name]
        if actual != element or not _fits(sizes, dims):
            raise BundleError(
                f"{shown(path)}: its {kind} {name} is {_spelled(actual, sizes)}; "
                f"expected {_spelled(element, dims)}{decided}; {COPY_AGAIN}"
            )


def _fits(sizes: Dims, expected: Dims) -> bool:
    """Returns whether sizes agree; where a name is expected, every size will do."""
    # a graph for one size of batch is refused by ONNX Runtime when it gets another
    return len(sizes) == len(expected) and all(
        size == fixed or not isinstance(fixed, int)
        for size, fixed in zip(sizes, expected, strict=True)
    )


def _spelled(element: int, sizes: Dims) -> str:
    """Returns a type as in "float32 (batch, 64)"."""
    name = TYPE_NAMES.get(element, f"type {element}")
    return f"{name} ({shown(', '.join('?' if size is None else str(size) for size in sizes))})"
