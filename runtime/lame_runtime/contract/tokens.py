"""Prompt runs → token ids.

A user's text is always tokenized as plain text. A literal `<|image_pad|>` that a user types becomes
ordinary tokens, and can neither forge a picture nor break the layout.
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
    """Encodes plain text with a `tokenizer.json` and looks special tokens up by name.

    Args:
        path: the file.
        remedy: how to get a file that can be read; messages end with it.

    Raises:
        BundleError: the file is missing or is not a tokenizer.
    """

    def __init__(self, path: Path, *, remedy: str = "export the bundle again") -> None:
        from tokenizers import Tokenizer  # deferred: 30 ms

        self._path, self._remedy = path, remedy
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises a bare Exception for every failure
            raise BundleError(
                f"{path}: not a readable tokenizer.json ({error}); {remedy}"
            ) from None
        # Despite its name, this makes the tokenizer read special tokens inside a text as plain
        # text.
        self._tokenizer.encode_special_tokens = True
        # A tokenizer.json may hold padding and truncation of its own; the contract's rules are
        # others.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, read as plain text.

        Raises:
            InputError: the text is not Unicode: it holds a lone surrogate.
        """
        # A str may hold a lone surrogate, UTF-8 cannot. tokenizers refuses it with a TypeError that
        # says "TextInputSequence must be str".
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text is not Unicode (character {error.start}): "
                "decode it with its own encoding first"
            ) from None
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def special(self, token: str) -> int:
        """Returns the id of the special token `token`.

        Raises:
            BundleError: the vocabulary lacks it.
        """
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise BundleError(
                f"{self._path}: has no token {token}, which the contract's prompt uses; "
                f"{self._remedy}"
            )
        return int(number)

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
    """Returns the ids of one prompt, with the K + 1 latent ids at its end.

    Args:
        runs: the prompt, as `prompts.layout_runs` returns it.
        first_closing: index of the first closing run, which truncation keeps.
        tokenizer: the bundle's tokenizer.
        rules: ids and limits.
        truncate: cut a prompt that is too long instead of refusing it.

    Returns:
        int64 (n + K + 1,): the prompt, then [REASON]_0 … [REASON]_{K-1}, then [EMBED].

    Raises:
        InputError: the prompt is longer than `rules.max_length` and `truncate` is false, or the
            part of it that is not the user's text is too long by itself.
    """
    opening = _encode(runs[:first_closing], tokenizer, rules)
    closing = _encode(runs[first_closing:], tokenizer, rules)
    length = len(opening) + len(closing)
    excess = length - rules.max_length
    if excess > 0:
        if not truncate:
            raise InputError(
                f"the input is {length} tokens long, the limit is {rules.max_length}: "
                "shorten it or pass `truncate=True`"
            )
        if excess >= _user_tokens(runs[first_closing - 1], tokenizer):
            raise InputError(
                f"the input is {length} tokens long and its text is too short to cut to "
                f"{rules.max_length}: use fewer or smaller pictures (`max_pixels`, `max_frames`) "
                "or a shorter instruction"
            )
        # The user's text ends where the closing begins, so the end of `opening` is what is cut.
        opening = opening[:-excess]
    # Latent ids lie behind those of the tokenizer, so that no text can produce them.
    latents = range(rules.first_latent, rules.first_latent + rules.n_reason + 1)
    return np.array([*opening, *closing, *latents], dtype=np.int64)


def _user_tokens(last: Run, tokenizer: TextTokenizer) -> int:
    """Returns how many tokens at the end of the last run before the closing are the user's.

    The difference of two encodings, since a token may span the border between both texts.
    """
    if last.kind != "text":
        return 0
    return len(tokenizer.encode(last.text)) - len(tokenizer.encode(last.text[: last.fixed]))


def _encode(runs: Sequence[Run], tokenizer: TextTokenizer, rules: TokenRules) -> list[int]:
    ids: list[int] = []
    # Run by run: special tokens are looked up by name here, and nowhere else.
    for run in runs:
        if run.kind == "text":
            ids += tokenizer.encode(run.text)
        elif run.kind == "special":
            ids.append(tokenizer.special(run.text))
        else:
            ids += [rules.image_pad if run.kind == "image" else rules.video_pad] * run.count
    return ids
