"""Reads `tokenizer.json` and refuses what could end the process, hang it, or mislead.

The tokenizers library builds whatever the file describes: normalizers that make a text a million
times as long, regular expressions that never finish, tables that it reads beyond their end. These
hang or end the process, which no caller can prevent. So only the parts of byte-level BPE tokenizers
are allowed, such as those of the Qwen families and those that LaME trains. The checked values are
serialized again, so that the library reads exactly the values that were checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lame_runtime.errors import shown
from lame_runtime.files.json_file import parse_json

MAX_TOKENIZER_BYTES = 64 << 20
"""Largest `tokenizer.json` that is read; those of published vocabularies have 7 to 33 MB."""
MAX_TOKENS = 1 << 20
"""Largest number of tokens, and of merges; published vocabularies have 152,000 to 262,000."""
MAX_ADDED_TOKENS = 1 << 16
"""Largest number of added tokens, of which the library reads 50,000 in a second."""
MAX_TOKEN_LENGTH = 1024
"""Largest number of characters of a token."""
MAX_STEPS = 8
"""Largest number of normalizers or pre-tokenizers in a row."""

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = frozenset(
    [
        *(
            _CONTRACTIONS
            + rf"|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
            + _SPACES
            for digits in ("", "{1,3}")
        ),
        _CONTRACTIONS
        + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        + _SPACES,
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    ]
)
"""Regular expressions that split texts: those of Qwen2 to Qwen3, Llama 3, Qwen3.5 and GPT-2.

Others are refused, because what a regular expression costs cannot be told from its text.
"""
_BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


@dataclass(frozen=True)
class TokenizerFile:
    """A checked tokenizer."""

    text: str
    """JSON for the tokenizers library. Padding, truncation and special tokens that it would put
    around a text are left out, because the contract has rules of its own for them."""
    vocab_ids: int
    """One more than the highest id of the model's vocabulary."""
    added: dict[str, int]
    """Ids of the added tokens as the file gives them."""


def read_tokenizer(content: bytes) -> TokenizerFile:
    """Checks the content of a `tokenizer.json`.

    Raises:
        ValueError: it is too large, not JSON, holds a key twice, or describes another kind of
            tokenizer; the text names the field.
    """
    if len(content) > MAX_TOKENIZER_BYTES:
        raise ValueError(f"it is larger than {MAX_TOKENIZER_BYTES:,} bytes")
    # the library takes the last of two values with one key, other readers the first
    raw = _object(parse_json(content.decode("utf-8-sig"), strict=True, finite=True), "it")
    entries = _list(raw.get("added_tokens", []), "added_tokens")
    if len(entries) > MAX_ADDED_TOKENS:
        raise ValueError(f"added_tokens has more than {MAX_ADDED_TOKENS:,} entries")
    model = _bpe(_object(raw.get("model"), "model"))
    added = [_added_token(entry, f"added_tokens[{index}]") for index, entry in enumerate(entries)]
    checked = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": _steps(raw.get("normalizer"), "normalizer", "normalizers", _normalizer),
        "pre_tokenizer": _steps(
            raw.get("pre_tokenizer"), "pre_tokenizer", "pretokenizers", _pre_tokenizer
        ),
        "post_processor": None,
        "decoder": _steps(raw.get("decoder"), "decoder", "decoders", _byte_level),
        "model": model,
    }
    highest = max(model["vocab"].values(), default=-1)
    return TokenizerFile(
        json.dumps(checked, ensure_ascii=False),
        highest + 1,
        {entry["content"]: entry["id"] for entry in added},
    )


def _bpe(model: dict[str, Any]) -> dict[str, Any]:
    # files of older versions name no type; theirs are told apart by their fields
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"model.type is {shown(model['type'])}, only BPE is read")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        # a dropout would give the same text other ids each time
        if model.get(name):
            raise ValueError(f"model.{name} is {shown(model[name])}, must be null or empty")
    vocab = _object(model.get("vocab"), "model.vocab")
    merges = _list(model.get("merges"), "model.merges")
    _check_vocab(vocab, merges)
    for index, merge in enumerate(merges):
        if not _is_merge(merge, vocab):
            raise ValueError(
                f"model.merges[{index}] is {shown(merge)}, not two tokens that form a third"
            )
    unknown = model.get("unk_token")
    if unknown is not None and not (isinstance(unknown, str) and unknown in vocab):
        raise ValueError(f"model.unk_token is {shown(unknown)}, which the vocabulary lacks")
    flags = ("fuse_unk", "byte_fallback", "ignore_merges")
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": model.get("continuing_subword_prefix"),
        "end_of_word_suffix": model.get("end_of_word_suffix"),
        **{name: _bool(model, name, "model", default=False) for name in flags},
        "vocab": vocab,
        "merges": merges,
    }


def _check_vocab(vocab: dict[str, Any], merges: list[Any]) -> None:
    for name, entries in (("vocab", vocab), ("merges", merges)):
        if len(entries) > MAX_TOKENS:
            raise ValueError(f"model.{name} has {len(entries):,} entries, more than {MAX_TOKENS:,}")
    if not all(map(_is_id, vocab.values())):
        raise ValueError(f"model.vocab holds an id that is not 0 to {MAX_TOKENS - 1}")
    if max(map(len, vocab), default=0) > MAX_TOKEN_LENGTH:
        raise ValueError(f"model.vocab holds a token of more than {MAX_TOKEN_LENGTH} characters")


def _is_merge(merge: Any, vocab: dict[str, Any]) -> bool:
    """Returns whether a merge joins two tokens of the vocabulary into a third."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(token, str) and token in vocab for token in pair)
        and "".join(pair) in vocab
    )


def _added_token(entry: Any, place: str) -> dict[str, Any]:
    token = _object(entry, place)
    content = token.get("content")
    if not isinstance(content, str) or not 0 < len(content) <= MAX_TOKEN_LENGTH:
        raise ValueError(f"{place}.content is {shown(content)}, not a token")
    if not _is_id(token.get("id")):
        raise ValueError(f"{place}.id is {shown(token.get('id'))}, must be 0 to {MAX_TOKENS - 1}")
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {
        "id": token["id"],
        "content": content,
        **{name: _bool(token, name, place, default=False) for name in flags},
    }


Step = Callable[[dict[str, Any], str], dict[str, Any]]


def _steps(raw: Any, place: str, key: str, step: Step) -> dict[str, Any] | None:
    """Checks a component, or a sequence of them, whose `key` lists the steps."""
    if raw is None:
        return None
    component = _object(raw, place)
    if component.get("type") != "Sequence":
        return step(component, place)
    entries = _list(component.get(key), f"{place}.{key}")
    if len(entries) > MAX_STEPS:
        raise ValueError(f"{place}.{key} has {len(entries)} steps, more than {MAX_STEPS}")
    steps = [
        step(_object(entry, f"{place}.{key}[{index}]"), f"{place}.{key}[{index}]")
        for index, entry in enumerate(entries)
    ]
    return {"type": "Sequence", key: steps}


def _normalizer(component: dict[str, Any], place: str) -> dict[str, Any]:
    # these make a text 18 times as long at most, however often they are repeated
    return {"type": _choice(component, "type", ("NFC", "NFD", "NFKC", "NFKD"), place)}


def _pre_tokenizer(component: dict[str, Any], place: str) -> dict[str, Any]:
    kind = _choice(component, "type", ("ByteLevel", "Split", "Digits"), place)
    if kind == "ByteLevel":
        return _byte_level(component, place)
    if kind == "Digits":
        single = _bool(component, "individual_digits", place, default=False)
        return {"type": "Digits", "individual_digits": single}
    pattern = _object(component.get("pattern"), f"{place}.pattern")
    expression = pattern.get("Regex")
    if len(pattern) != 1 or not isinstance(expression, str) or expression not in PATTERNS:
        raise ValueError(
            f"{place}.pattern is {shown(next(iter(pattern.values()), None))}, "
            "not one of the known regular expressions"
        )
    return {
        "type": "Split",
        "pattern": {"Regex": expression},
        "behavior": _choice(component, "behavior", _BEHAVIORS, place),
        "invert": _bool(component, "invert", place, default=False),
    }


def _byte_level(component: dict[str, Any], place: str) -> dict[str, Any]:
    # the defaults are those of the tokenizers library
    flags = ("add_prefix_space", "trim_offsets", "use_regex")
    return {
        "type": _choice(component, "type", ("ByteLevel",), place),
        **{name: _bool(component, name, place, default=True) for name in flags},
    }


def _choice(component: dict[str, Any], name: str, choices: Iterable[str], place: str) -> str:
    value = component.get(name)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{place}.{name} is {shown(value)}, must be one of {', '.join(choices)}")
    return value


def _bool(component: dict[str, Any], name: str, place: str, *, default: bool) -> bool:
    value = component.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{place}.{name} is {shown(value)}, must be true or false")
    return value


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_TOKENS


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place} must be an object")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{place} must be a list")
    return value
