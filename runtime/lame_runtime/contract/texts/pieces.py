"""Cuts long texts into pieces that can be tokenized one by one.

A tokenizer takes about 200 bytes of memory for a byte of text, so a text of some megabytes must not
be tokenized as a whole to learn that it is too long, or to keep its beginning. It is cut instead
where the tokenizer's own regular expression always ends a word. The ids of the pieces are then
those of the whole text, and tokenizing stops as soon as there are enough of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lame_runtime.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lame_runtime.contract.prompts import Input

MAX_CHARACTERS = 1 << 24
"""Largest number of characters of an input's texts and instruction together."""
PIECE = 1 << 16
"""Number of characters after which the next possible cut is made; shorter texts stay whole."""
LONGEST_STRETCH = 1 << 18
"""Largest number of characters that are tokenized at once."""

_CUT = re.compile(r"""[^\s\u180e][ ]|[A-Za-zÀ-ÖØ-öø-ɏА-яぁ-ゖァ-ヺ一-龥가-힣][\n、。，！？；：]""")
"""Two characters that no tokenizer of `_WORDS` joins: a space after anything but white space, and a
line break or CJK punctuation mark after a letter. Letters and white space are what every version of
Unicode calls so."""
_WORDS = frozenset(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("", "{1,3}")
)
"""Regular expressions of Qwen's and similar tokenizers, for which `_CUT` was derived."""


def check_texts(item: Input) -> None:
    """Checks the types of an input's texts, and their length before anything is copied.

    Raises:
        InputError: a text is not a string, or the texts have more than `MAX_CHARACTERS` together.
    """
    instruction = "" if item.instruction is None else item.instruction
    texts = [item.text, instruction, *(part for part in item.content if isinstance(part, str))]
    if not all(isinstance(text, str) for text in texts):
        raise InputError("`text` and `instruction` must be strings")
    if (length := sum(map(len, texts))) > MAX_CHARACTERS:
        raise InputError(
            f"the input's texts have {length:,} characters, the limit is {MAX_CHARACTERS:,}: "
            "shorten them, also with `truncate=True`"
        )


def pieces(text: str, *, can_be_cut: bool) -> Iterator[str]:
    """Yields a text in pieces of about `PIECE` characters, cut where no id can change.

    Args:
        text: the text; a short one is its only piece.
        can_be_cut: what `can_be_cut` returned for the tokenizer.

    Raises:
        InputError: more than `LONGEST_STRETCH` characters have no place for a cut.
    """
    start = 0
    while len(text) - start > PIECE:
        last = start + LONGEST_STRETCH
        cut = _CUT.search(text, start + PIECE, last) if can_be_cut else None
        if cut is None:
            if len(text) > last:
                raise InputError(
                    f"the text of {len(text):,} characters has {LONGEST_STRETCH:,} or more without "
                    "a space at which it could be cut: shorten it, also with `truncate=True`"
                )
            break
        yield text[start : cut.start() + 1]
        start = cut.start() + 1
    yield text[start:]


def can_be_cut(tokenizer: Tokenizer) -> bool:
    """Returns whether a tokenizer is known to end words where `pieces` cuts.

    Words are then tokenized independently of each other, whatever model follows. NFC,
    the only normalizer that is allowed, joins no character with a following space.
    """
    words = _state(tokenizer.pre_tokenizer)
    if words.get("type") == "Sequence":
        split, *others = words.get("pretokenizers", [{}])
        known = (
            split.get("type") == "Split"
            and split.get("pattern", {}).get("Regex") in _WORDS
            and (split.get("behavior"), split.get("invert")) == ("Isolated", False)
            and all(_is_byte_level(other, use_regex=False) for other in others)
        )
    else:
        # with its own regular expression, that of GPT-2
        known = _is_byte_level(words, use_regex=True)
    added = tokenizer.get_added_tokens_decoder().values()
    return (
        known
        and _state(tokenizer.normalizer).get("type", "NFC") == "NFC"
        # a token that holds a possible cut, or that takes the spaces beside it
        and not any(
            token.lstrip or token.rstrip or token.single_word or _CUT.search(token.content)
            for token in added
        )
    )


def _is_byte_level(state: dict[str, Any], *, use_regex: bool) -> bool:
    # with `add_prefix_space`, every piece would begin with a space
    return (
        state.get("type") == "ByteLevel"
        and state.get("add_prefix_space") is False
        and state.get("use_regex", True) is use_regex
    )


def _state(component: Any) -> dict[str, Any]:
    """Returns a component of a tokenizer as it stands in tokenizer.json; empty if there is none."""
    state = {} if component is None else json.loads(component.__getstate__())
    return state if isinstance(state, dict) else {}
