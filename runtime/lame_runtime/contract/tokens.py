"""Prompt runs → token ids.

A user's text is always tokenised as plain text: a literal `<|image_pad|>` typed by a user becomes
ordinary bytes and can neither forge a picture nor break the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.prompts import Run
from lame_runtime.contract.rules import TokenRules
from lame_runtime.errors import BundleError, InputError


class TextTokenizer:
    """A `tokenizer.json` that encodes plain text and looks special tokens up by name."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer  # 30 ms that importing the package need not pay

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises a bare Exception for every failure
            raise BundleError(f"{path}: not a readable tokenizer.json ({error}); export the bundle again") from None
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, read as plain text; raises `InputError` where it is not Unicode (a lone surrogate)."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"the text is not Unicode (character {error.start}): decode it with its own encoding first") from None
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text behind `ids`, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def special(self, token: str) -> int:
        """Id of the special token `token`; raises `BundleError` where the vocabulary lacks it."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise BundleError(f"tokenizer.json has no token {token}, which the contract's prompt uses; export the bundle again")
        return int(found)

    @property
    def size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))


def token_ids(
    runs: Sequence[Run],
    first_closing: int,
    tokenizer: TextTokenizer,
    rules: TokenRules,
    *,
    truncate: bool,
) -> npt.NDArray[np.int64]:
    """Ids of one prompt with the K + 1 latent ids at its end.

    Args:
        runs: the prompt, as `prompts.layout_runs` returns it.
        first_closing: index of the first closing run, which truncation keeps.
        tokenizer: the bundle's tokenizer.
        rules: ids and limits.
        truncate: cut a prompt that is too long instead of refusing it.

    Returns:
        int64 (n + K + 1,): the prompt, then [REASON]_0 … [REASON]_{K-1}, then [EMBED].

    Raises:
        InputError: the prompt is longer than `rules.max_length` and `truncate` is false, or its picture
            and closing tokens alone are too long.
    """
    opening = _encode(runs[:first_closing], tokenizer, rules)
    closing = _encode(runs[first_closing:], tokenizer, rules)
    excess = len(opening) + len(closing) - rules.max_length
    if excess > 0:
        length = len(opening) + len(closing)
        if not truncate:
            raise InputError(
                f"the input is {length} tokens long, the limit is {rules.max_length}: shorten it or ask for truncation (--truncate)"
            )
        last = runs[first_closing - 1]
        users = len(tokenizer.encode(last.text)) - len(tokenizer.encode(last.text[: last.fixed])) if last.kind == "text" else 0
        if excess >= users:
            raise InputError(
                f"the input is {length} tokens long and its text is too short to cut to {rules.max_length}: "
                "use fewer or smaller pictures (max_pixels, max_frames) or a shorter instruction"
            )
        opening = opening[:-excess]
    latents = range(rules.first_latent, rules.first_latent + rules.n_reason + 1)
    return np.array([*opening, *closing, *latents], dtype=np.int64)


def _encode(runs: Sequence[Run], tokenizer: TextTokenizer, rules: TokenRules) -> list[int]:
    ids: list[int] = []
    for run in runs:
        if run.kind == "text":
            ids += tokenizer.encode(run.text)
        elif run.kind == "special":
            ids.append(tokenizer.special(run.text))
        else:
            ids += [rules.image_pad if run.kind == "image" else rules.video_pad] * run.count
    return ids
