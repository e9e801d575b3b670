"""Finds the tensors of the backbone and of the latent decoder by their names and shapes.

A part's tensors may stand under any prefix, such as `model.` or `encoder.base.`, but must all be
there, in the shapes that the config gives.
"""

from __future__ import annotations

from lame_training.published.official.tensor_table import Shape, TensorTable

PARTS = {
    "language_model.": "layers.0.self_attn.q_proj.weight",
    "visual.": "patch_embed.proj.weight",
}
"""The parts of a backbone, and a tensor that each of them has."""
_DECODER = "layers.0.self_attn.q_norm.weight"
"""A tensor that Qwen3 has and Qwen2-VL has not."""
_HEAD = "lm_head.weight"
_LAYERS = ("layers.", "norm.", "embed_tokens.")


def match_backbone(expected: dict[str, Shape], table: TensorTable) -> dict[str, str]:
    """Finds the tensors of a backbone.

    Args:
        expected: the shapes of the backbone's weights by transformers' own names.
        table: the folder's tensors; those of the backbone are taken out of it.

    Returns:
        The name in the folder of each weight; what is missing stands in `table.problems`.
    """
    names: dict[str, str] = {}
    for part, anchor in PARTS.items():
        own = {
            name.removeprefix(part): shape
            for name, shape in expected.items()
            if name.startswith(part)
        }
        prefixes = [
            prefix
            for prefix in _prefixes(anchor, table)
            if all(table.shapes.get(prefix + name) == shape for name, shape in own.items())
        ]
        if len(prefixes) != 1:
            problem = _problem(part, anchor, own, prefixes, table)
            table.open([prefix + anchor for prefix in prefixes], problem)
            continue
        (prefix,) = prefixes
        names |= {part + name: prefix + name for name in own}
        title = f"{prefix}*"
        table.take_all([prefix + name for name in own], title, part[:-1], "names and shapes")
    return names


def match_decoder(table: TensorTable, table_shape: Shape) -> int | None:
    """Takes the latent decoder and the language-model head out of a table; no vector needs them.

    Args:
        table: the tensors that are left.
        table_shape: the shape of the backbone's embedding table.

    Returns:
        The decoder's width, or None if the folder holds none.
    """
    prefixes = _prefixes(_DECODER, table)
    width = None
    for prefix in prefixes:
        query = table.shapes.get(f"{prefix}layers.0.self_attn.q_proj.weight", ())
        width = query[1] if len(query) == 2 else None
        starts = tuple(prefix + start for start in _LAYERS)
        own = [name for name in table.shapes if name.startswith(starts)]
        table.take_all(own, f"{prefix}*", "latent decoder, left out", "the names of a Qwen3")
    for name in [name for name in table.shapes if name.endswith(_HEAD)]:
        if table.shapes[name] == table_shape:
            table.take(name, "language-model head, left out", "name and shape")
    return width


def _prefixes(anchor: str, table: TensorTable) -> list[str]:
    """Returns what stands before the name of a tensor, wherever it occurs."""
    before = [name.removesuffix(anchor) for name in table.shapes if name.endswith(anchor)]
    return sorted(prefix for prefix in before if not prefix or prefix.endswith("."))


def _problem(
    part: str, anchor: str, own: dict[str, Shape], prefixes: list[str], table: TensorTable
) -> str:
    """Returns why a part of the backbone is not found, or found twice."""
    if prefixes:
        return f"{len(prefixes)} copies of the {part[:-1]}"
    for prefix in _prefixes(anchor, table):
        for name, shape in own.items():
            actual = table.shapes.get(prefix + name)
            # another model that shares some names, such as the decoder, differs in the first layer
            if actual != shape and table.shapes[prefix + anchor] == own[anchor]:
                size = "missing" if actual is None else f"{list(actual)}"
                return f"{prefix}{name} is {size}, the config says {list(shape)}"
    return f"no tensors of a {part[:-1]} in the shapes of the config"
