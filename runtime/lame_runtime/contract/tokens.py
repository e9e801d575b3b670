"""Prompt runs → token ids.

A user's text is always tokenized as plain text. A literal `<|image_pad|>` that a user types becomes
ordinary tokens, and can neither forge a picture nor break the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.prompts import Run
from lame_runtime.contract.rules import TokenRules
from lame_runtime.contract.texts.pieces import PIECE, can_be_cut, pieces
from lame_runtime.errors import BundleError, InputError, first_line, shown
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular
from lame_runtime.files.tokenizer_json import read_tokenizer


class TextTokenizer:
    """Encodes plain text with a `tokenizer.json` and looks special tokens up by name.

    Args:
        path: the file.
        remedy: how to get a file that can be read; messages end with it.
        content: the file's bytes if they have been read, and checked, before.

    Raises:
        BundleError: the file is missing, or is not a byte-level BPE tokenizer (see
            `lame_runtime.files.tokenizer_json`).
    """

    def __init__(
        self,
        path: Path,
        *,
        remedy: str = "export the bundle again",
        content: bytes | None = None,
    ) -> None:
        from tokenizers import Tokenizer  # deferred: 30 ms

        self._path, self._remedy = path, remedy
        try:
            if content is None:
                content = read_regular(path, MAX_JSON_BYTES)
            checked = read_tokenizer(content)
            self._tokenizer = _caught(Tokenizer.from_str, checked.text)
            added = self._tokenizer.get_added_tokens_decoder()
            # The library numbers added tokens itself where the file's ids have gaps.
            if {token.content: number for number, token in added.items()} != checked.added:
                raise ValueError("added_tokens have other ids than their places give them")
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
            raise BundleError(
                f"{shown(path)}: not a readable tokenizer.json ({reason}); {remedy}"
            ) from None
        self._special: dict[str, int] = {
            token.content: number for number, token in added.items() if token.special
        }
        self._special_ids = frozenset(self._special.values())
        self._size: int = max(checked.vocab_ids, *(number + 1 for number in added), 0)
        # Despite its name, this makes the tokenizer read special tokens inside a text as plain
        # text.
        self._tokenizer.encode_special_tokens = True
        # A tokenizer.json may hold padding and truncation of its own; the contract's rules are
        # others.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state with the library's tokenizer as text, which every protocol can hold."""
        return {**self.__dict__, "_tokenizer": self._tokenizer.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copied or pickled tokenizer; tokenizers itself forgets this setting."""
        from tokenizers import Tokenizer  # deferred: 30 ms

        self.__dict__.update(state, _tokenizer=Tokenizer.from_str(state["_tokenizer"]))
        self._tokenizer.encode_special_tokens = True

    def encode(self, text: str, *, offset: int = 0) -> list[int]:
        """Returns the ids of `text`, read as plain text.

        Args:
            text: the text.
            offset: place of its first character in a longer text, for the message.

        Raises:
            InputError: the text is not Unicode: it holds a lone surrogate.
        """
        # A str may hold a lone surrogate, UTF-8 cannot. tokenizers refuses it with a TypeError that
        # says "TextInputSequence must be str".
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text is not Unicode (character {offset + error.start}): "
                "decode it with its own encoding first"
            ) from None
        try:
            encoding = _caught(self._tokenizer.encode, text, add_special_tokens=False)
        except ValueError as error:
            raise InputError(
                f"the text cannot be tokenized ({first_line(error)}): shorten it"
            ) from None
        ids = list(encoding.ids)
        # Ids of special tokens mean more than their text: they stand for pictures and turns.
        if not self._special_ids.isdisjoint(ids):
            raise BundleError(
                f"{shown(self._path)}: makes a special token of plain text, so texts could forge "
                f"pictures; {self._remedy}"
            )
        return ids

    def encode_start(self, text: str, most: int) -> tuple[list[int], bool]:
        """Returns the ids of `text`, or of a beginning of it with more than `most` ids.

        Returns:
            The first ids of the whole text, and whether they are all of them.

        Raises:
            InputError: as `encode`, or a long text has no place at which it could be cut.
        """
        # asked of the tokenizer only if there is something to cut, because that takes time
        remaining = pieces(text, can_be_cut=len(text) > PIECE and self._can_be_cut)
        ids: list[int] = []
        length = 0
        for piece in remaining:
            ids += self.encode(piece, offset=length)
            length += len(piece)
            if len(ids) > most:
                break
        return ids, length == len(text)

    @cached_property
    def _can_be_cut(self) -> bool:
        return can_be_cut(self._tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def special(self, token: str) -> int:
        """Returns the id of the special token `token`.

        Raises:
            BundleError: the vocabulary lacks it, or has it as a token that texts may contain.
        """
        number = self._special.get(token)
        if number is None:
            raise BundleError(
                f"{shown(self._path)}: has no token {token} that is marked as special, which the "
                f"contract's prompt uses; {self._remedy}"
            )
        return number

    @property
    def size(self) -> int:
        """Number of rows that an embedding table needs: one more than the highest id."""
        return self._size


def _caught(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls the tokenizers library; raises `ValueError` for every failure.

    It raises a bare `Exception`, or lets a panic of its native code through, which is no
    `Exception` but derives from `BaseException`, as ctrl-C does.
    """
    try:
        return call(*args, **options)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(first_line(error)) from None


def token_ids(
    runs: Sequence[Run],
    first_closing: int,
    tokenizer: TextTokenizer,
    rules: TokenRules,
    *,
    truncate: bool,
) -> npt.NDArray[np.int64]:
    """Returns the ids of one prompt, with the latent ids at its end.

    Args:
        runs: the prompt, as `prompts.layout_runs` returns it.
        first_closing: index of the first closing run, which truncation keeps.
        tokenizer: the bundle's tokenizer.
        rules: ids and limits.
        truncate: cut a prompt that is too long instead of refusing it.

    Returns:
        int64 (n + K + 1,): the prompt, then [REASON]_0 … [REASON]_{K-1}, then [EMBED]; or (n,), if
        the contract has no [EMBED].

    Raises:
        InputError: the prompt is longer than `rules.max_length` and `truncate` is false, or the
            part of it that is not the user's text is too long by itself.
    """
    closing, _, _ = _encode(runs[first_closing:], tokenizer, rules)
    opening, last_start, complete = _encode(runs[:first_closing], tokenizer, rules)
    length = len(opening) + len(closing)
    if length > rules.max_length:
        # the rest of a long text is not tokenized, so its tokens are not counted
        counted = f"{length}" if complete else f"at least {length}"
        if not truncate:
            raise InputError(
                f"the input is {counted} tokens long, the limit is {rules.max_length}: "
                "shorten it or pass `truncate=True`"
            )
        last = runs[first_closing - 1]
        fixed = _fixed_tokens(last, tokenizer, rules) if last.kind == "text" else len(opening)
        if last.closing:
            closing = [*tokenizer.encode(last.text[-last.closing :]), *closing]
        if last_start + fixed + len(closing) >= rules.max_length:
            raise InputError(
                f"the input is {counted} tokens long and its text is too short to cut to "
                f"{rules.max_length}: use fewer or smaller pictures (`max_pixels`, `max_frames`) "
                "or a shorter instruction"
            )
        # The user's text ends where the closing begins, so the end of `opening` is what is cut.
        opening = opening[: rules.max_length - len(closing)]
    # Latent ids come after those of the tokenizer, so that no text can produce them.
    latents = range(rules.first_latent, rules.first_latent + rules.n_latents)
    return np.array([*opening, *closing, *latents], dtype=np.int64)


def _fixed_tokens(last: Run, tokenizer: TextTokenizer, rules: TokenRules) -> int:
    """Returns how many tokens of a text are not the user's, or some number above the limit."""
    return len(tokenizer.encode_start(last.text[: last.fixed], rules.max_length)[0])


def _encode(
    runs: Sequence[Run], tokenizer: TextTokenizer, rules: TokenRules
) -> tuple[list[int], int, bool]:
    """Encodes runs until a long text exceeds the limit.

    Returns:
        The ids, the index of the first id of the last run, and whether all runs are encoded.
    """
    ids: list[int] = []
    start = 0
    # Run by run: special tokens are looked up by name here, and nowhere else.
    for run in runs:
        start = len(ids)
        if run.kind == "text":
            encoded, complete = tokenizer.encode_start(run.text, rules.max_length - len(ids))
            ids += encoded
            if not complete:
                # if there are runs after it, nothing of the last one is reached
                return ids, start if run is runs[-1] else len(ids), False
        elif run.kind == "special":
            ids.append(tokenizer.special(run.text))
        else:
            ids += [rules.image_pad if run.kind == "image" else rules.video_pad] * run.count
    return ids, start, True
