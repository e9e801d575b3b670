"""Finds the reason tokens, [EMBED] and the projection among the tensors that are left.

A tensor is taken if it is the only one of its shape, or the only one of that shape whose name says
what it is. Latent tokens may also be rows of the vocabulary, which the tokenizer names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lame_training.published.official.tensor_table import Shape, TensorTable

_REASON, _EMBED, _PROJECTION = re.compile("reason"), re.compile("emb"), re.compile("proj|head")
"""Parts of names, in small letters."""


@dataclass(frozen=True)
class LatentPlaces:
    """Names the places of latent tokens and projection in a folder.

    Attributes:
        reason: the tensor of the reason tokens, or their ids in the vocabulary.
        embed: the tensor of [EMBED], or its id in the vocabulary, in a tuple.
        weight: the projection's matrix.
        bias: its bias, if there is one.
    """

    reason: str | tuple[int, ...]
    embed: str | tuple[int, ...]
    weight: str
    bias: str | None


def match_latents(
    table: TensorTable,
    tokens: Sequence[tuple[str, int]],
    sizes: tuple[int, int, int],
    decoder_width: int,
) -> LatentPlaces | None:
    """Finds what the backbone does not have.

    Args:
        table: the tensors that are left; all of them are taken out of it.
        tokens: the tokenizer's added tokens, with their ids.
        sizes: K, the width D of the backbone, and the length P of vectors.
        decoder_width: width E of the latent decoder.

    Returns:
        The places; None if `table.problems` says that something is not clear.
    """
    n_reason, width, dim = sizes
    both = [
        name for name, shape in table.shapes.items() if _squeezed(shape) == (n_reason + 1, width)
    ]
    if both:
        table.open(
            both, f"{n_reason + 1} rows may be reason tokens and [EMBED], in an unknown order"
        )
    reason_tensor = _only(table, [(n_reason, width)], _REASON, "reason tokens")
    embed_tensor = _only(table, [(width,)], _EMBED, "[EMBED]")
    weight = _only(table, [(dim, width)], _PROJECTION, "projection")
    if weight is None and not table.problems:
        table.problems.append(f"no tensor of {dim} × {width} values, the projection")
    bias = _bias(table, weight, dim)
    _leave_out_connector(table, decoder_width, (width, dim))
    for name in sorted(table.shapes):
        table.open([name], f"{name} is none of the known parts")
    reason = reason_tensor or _vocabulary(table, tokens, _REASON, "reason tokens", (1, n_reason))
    embed = embed_tensor or _vocabulary(table, tokens, _EMBED, "[EMBED]", (1,))
    _check_twice(table, tokens, reason_tensor, _REASON)
    _check_twice(table, tokens, embed_tensor, _EMBED)
    if table.problems or reason is None or embed is None or weight is None:
        return None
    if not isinstance(reason, str) and len(reason) == 1:
        reason *= n_reason  # a single token that is written K times
    return LatentPlaces(reason, embed, weight, bias)


def _check_twice(
    table: TensorTable,
    tokens: Sequence[tuple[str, int]],
    tensor: str | None,
    pattern: re.Pattern[str],
) -> None:
    """Finds latent tokens that have a tensor, and rows of the vocabulary as well."""
    named = [token for token, _ in tokens if pattern.search(token.lower())]
    if tensor is not None and named:
        table.problems.append(f"{tensor} and {named[0]} of the vocabulary may be the same tokens")


def _bias(table: TensorTable, weight: str | None, dim: int) -> str | None:
    """Takes the bias of the projection, if there is one."""
    if weight is None or not weight.endswith("weight"):
        return None
    bias = weight.removesuffix("weight") + "bias"
    if table.shapes.get(bias) != (dim,):
        return None
    table.take(bias, "bias of the projection", "name and shape")
    return bias


def _squeezed(shape: Shape) -> Shape:
    """Returns a shape without leading axes of one element."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _only(
    table: TensorTable, wanted: list[Shape], pattern: re.Pattern[str], title: str
) -> str | None:
    """Takes the one tensor that can be a part; None if there is none, or several."""
    able = [name for name, shape in table.shapes.items() if _squeezed(shape) in wanted]
    named = [name for name in able if pattern.search(name.lower())]
    # norms and biases have one axis as well, so that such a tensor needs a name
    if len(wanted[0]) == 1:
        able = [name for name in able if len(table.shapes[name]) > 1 or name in named]
    by = "shape" if len(able) == 1 and not named else "name and shape"
    able = able if len(able) < 2 else named if len(named) == 1 else able
    if len(able) == 1:
        table.take(able[0], title, by)
        return able[0]
    if able:
        table.open(able, f"{len(able)} tensors may be the {title}")
    return None


def _leave_out_connector(table: TensorTable, width: int, others: tuple[int, int]) -> None:
    """Leaves out what maps into the decoder's space: tensors of its width, and their module's."""
    # a width that the backbone or the vectors have as well shows nothing
    if width in others:
        return
    of_width = [name for name, shape in table.shapes.items() if width in shape]
    modules = {_module(name) for name in of_width}
    own = [name for name in table.shapes if _module(name) in modules]
    for module in sorted(modules):
        names = [name for name in own if _module(name) == module]
        title = f"{module}.*" if len(names) > 1 else names[0]
        table.take_all(names, title, "connector, left out", f"the decoder's width {width}")


def _module(name: str) -> str:
    """Returns the module of a tensor: its name without the last two parts, or the last one."""
    return name.rsplit(".", 2 if name.count(".") > 1 else 1)[0]


def _vocabulary(
    table: TensorTable,
    tokens: Sequence[tuple[str, int]],
    pattern: re.Pattern[str],
    title: str,
    counts: tuple[int, ...],
) -> tuple[int, ...] | None:
    """Returns the ids of latent tokens that are rows of the vocabulary, in their order."""
    named = [(token, number) for token, number in tokens if pattern.search(token.lower())]
    if not named:
        table.problems.append(f"neither a tensor nor a token of the vocabulary is the {title}")
        return None
    digits = [re.findall(r"\d+", token) for token, _ in named]
    numbers = [int(runs[-1]) if runs else -1 for runs in digits]
    # a numbering from 0 or 1 without a gap gives the order
    is_ordered = len(named) == 1 or sorted(numbers) in (
        list(range(len(named))),
        list(range(1, len(named) + 1)),
    )
    if len(named) not in counts or not is_ordered:
        names = ", ".join(token for token, _ in named[:4])
        table.problems.append(f"{len(named)} tokens of the vocabulary may be the {title}: {names}")
        return None
    ids = tuple(number for _, (_, number) in sorted(zip(numbers, named, strict=True)))
    rows = ", ".join(str(number) for number in ids)
    table.note(f"row {rows} of the table", title, f"the name {named[0][0]}")
    return ids
