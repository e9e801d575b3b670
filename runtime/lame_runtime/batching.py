"""Reads inputs, prepares them, and decides which of them run together.

Padding costs compute, and each picture size in a batch costs a call of the vision tower. Inputs are
therefore sorted by length and patch grids before they are split into batches. Right padding under a
causal mask does not change the result of any row.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lame_runtime.contract.media.decoding_limits import Reserve
from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError, first_line, shown
from lame_runtime.inputs import InputLike, as_input, is_single
from lame_runtime.options import EncodeOptions

MAX_TOKENS = 1 << 14
"""Tokens of a batch, padding included. A row of the widest layer of a model with 2 billion
parameters takes 36 KB, of which a few are held at a time.
"""

PATCHES_PER_TOKEN = 2
"""Patches that a batch may hold for each token of a budget of tokens. Four patches make a vision
token, so vision tokens take twice the room of others: the vision tower has run over them as well.
"""


def count_of(inputs: Any) -> int | None:
    """Returns the number of inputs; None if it is known only at their end."""
    if is_single(inputs):
        return 1
    try:
        return len(inputs)
    except TypeError:
        return None


def is_one(inputs: Any) -> bool:
    """Returns whether there is one input, as far as that is known without asking an object of the
    caller's.
    """
    return is_single(inputs) or (isinstance(inputs, list | tuple) and len(inputs) == 1)


def input_iterator(inputs: InputLike | Iterable[InputLike]) -> Iterator[InputLike]:
    """Returns an iterator over one input or an iterable of inputs.

    Raises:
        InputError: the argument is neither, or later, a file in text mode holds no text.
    """
    if is_single(inputs):
        return iter([_parsed(inputs, 0)])  # type: ignore[arg-type]
    if not isinstance(inputs, Iterable):
        raise InputError(
            f"a {type(inputs).__name__} is not an input: "
            "give a str, a path, a PIL picture, a dict, or a list of them"
        )
    # files in text mode have an encoding, and are iterables of lines
    if callable(getattr(inputs, "read", None)) and hasattr(inputs, "encoding"):
        return _lines(inputs)
    return iter(inputs)  # type: ignore[arg-type]


def _lines(file: Iterable[Any]) -> Iterator[InputLike]:
    try:
        yield from file
    # of another encoding, closed, or not open for reading
    except (ValueError, OSError) as error:
        raise InputError(
            "the open file that was given, in text mode, cannot be read as lines "
            f'({first_line(error)}); open pictures in binary mode ("rb"), texts with their encoding'
        ) from None


def converted(item: InputLike, index: int, options: EncodeOptions) -> Input:
    """Returns an input with the instruction of the call, if it brings none of its own.

    Raises:
        InputError: a type or key is not accepted; the message names the input by its index.
    """
    parsed = _parsed(item, index)
    if parsed.instruction is None and options.default_instruction is not None:
        return replace(parsed, instruction=options.default_instruction)
    return parsed


def prepare(
    item: Input,
    index: int,
    preparer: Preparer,
    options: EncodeOptions,
    reserve: Reserve | None = None,
) -> Prepared:
    """Prepares one input; `reserve` as for the preparer.

    Raises:
        InputError: it cannot be embedded; the message names the input by its index.
    """
    try:
        return preparer(item, options.role_name, truncate=options.truncate, reserve=reserve)
    except InputError as error:
        raise InputError(f"input {index}: {error}") from None
    # what a disk or a decoder raises while a file is read; nothing is written here
    except OSError as error:
        name = error.filename or next(file_names(item), "the input")
        raise InputError(
            f"input {index}: {shown(name)}: cannot be read "
            f"({error.strerror or first_line(error)}); check the file and its disk"
        ) from None


def file_names(item: Input) -> Iterator[str | os.PathLike[str]]:
    """Yields the names of files in an input, as they were given."""
    for part in item.parts:
        source = "" if isinstance(part, str) else part.source
        names = source if isinstance(source, tuple) else (source,)
        yield from (name for name in names if name and isinstance(name, str | os.PathLike))


def _parsed(item: InputLike, index: int) -> Input:
    try:
        return as_input(item)
    except InputError as error:
        raise InputError(f"input {index}: {error}") from None


def plan_window(
    window: Sequence[Prepared], options: EncodeOptions, max_tokens: int
) -> list[list[int]]:
    """Returns the indices of the inputs of each batch of one call.

    Args:
        window: prepared inputs.
        options: `batch_size`, `batch_tokens` and `sort`.
        max_tokens: tokens that fit in memory, padding included.
    """
    size, sort, tokens = options.batch_size, options.sort, options.batch_tokens
    if tokens is None:
        return plan_batches(window, size, sort=sort, max_tokens=max_tokens)
    patches = PATCHES_PER_TOKEN * tokens
    tokens = min(tokens, max_tokens)
    return plan_batches(window, size, sort=sort, max_tokens=tokens, max_patches=patches)


def plan_batches(
    items: Sequence[Prepared],
    batch_size: int,
    *,
    sort: bool = True,
    max_tokens: int | None = None,
    max_patches: int | None = None,
) -> list[list[int]]:
    """Returns the indices of the inputs of each batch.

    Args:
        items: prepared inputs.
        batch_size: maximum number of inputs in a batch.
        sort: group inputs of similar length and patch grids; otherwise they keep their order.
        max_tokens: maximum number of tokens in a batch, padding included; None for no limit. A
            longer input is a batch by itself.
        max_patches: maximum number of patches of pictures and videos in a batch; as `max_tokens`.
    """
    order = list(range(len(items)))
    if sort:
        # longest first, so that the first batch needs the most memory
        order.sort(key=lambda index: _cost(items[index]), reverse=True)
    batches: list[list[int]] = []
    longest = patches = 0
    for index in order:
        longest = max(longest, len(items[index].ids))
        patches += patch_count(items[index])
        size = len(batches[-1]) + 1 if batches else 0
        is_full = (
            size > batch_size
            or (max_tokens is not None and size * longest > max_tokens)
            or (max_patches is not None and patches > max_patches)
        )
        if not batches or is_full:
            batches.append([])
            longest, patches = len(items[index].ids), patch_count(items[index])
        batches[-1].append(index)
    return batches


def patch_count(item: Prepared) -> int:
    """Returns the number of patches of an input's pictures and videos."""
    return sum(visual.n_patches for visual in item.visuals)


def _cost(item: Prepared) -> tuple[int, list[tuple[int, int, int]]]:
    return len(item.ids), [visual.grid for visual in item.visuals]
