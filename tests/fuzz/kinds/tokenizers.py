"""Tokenizers as hostile input, with hashes made anew."""

from __future__ import annotations

from random import Random
from typing import Any

from fuzz.case import Case
from fuzz.kinds.base import TINY_BUNDLE
from fuzz.kinds.bundle_copies import BundleCopy
from fuzz.kinds.bundle_files import parsed
from fuzz.kinds.edits import edits
from fuzz.media.damage import damaged

_SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
_GROWING = [{"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 1000}] * 4
_PARTS: tuple[tuple[str, Any], ...] = (
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}),
    ("normalizer", {"type": "Sequence", "normalizers": _GROWING}),
    ("normalizer", {"type": "Prepend", "prepend": {"repeat": ["x", 100_000]}}),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
    ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "abc"}),
    (
        "normalizer",
        {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
    ),
    ("normalizer", {"type": "Lowercase"}),
    ("pre_tokenizer", {**_SPLIT, "pattern": {"Regex": "(x+x+)+y"}}),
    ("pre_tokenizer", {**_SPLIT, "pattern": {"Regex": ""}}),
    ("pre_tokenizer", {**_SPLIT, "pattern": {"Regex": "(?=(a+))" * 50}}),
    ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    ("pre_tokenizer", {"type": "FixedLength", "length": 10**18}),
    (
        "pre_tokenizer",
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    ),
    ("pre_tokenizer", {"type": "Punctuation", "behavior": "Removed"}),
    ("pre_tokenizer", None),
    (
        "post_processor",
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        },
    ),
    ("post_processor", {"type": "BertProcessing", "sep": ["a", 10**6], "cls": ["b", 2**32 - 1]}),
    (
        "truncation",
        {"max_length": 0, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
    ),
    ("truncation", {"max_length": 3, "strategy": "LongestFirst", "stride": 9, "direction": "Left"}),
    (
        "padding",
        {
            "strategy": {"Fixed": 100_000},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        },
    ),
    (
        "padding",
        {
            "strategy": "BatchLongest",
            "direction": "Left",
            "pad_to_multiple_of": 0,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        },
    ),
    ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}),
    (
        "model",
        {
            "type": "WordPiece",
            "unk_token": "x",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 0,
            "vocab": {},
        },
    ),
    ("model", {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]], "byte_fallback": False}),
    ("model", {"type": "Unigram", "unk_id": None, "vocab": [], "byte_fallback": True}),
    ("model", {"type": "BPE", "vocab": {}, "merges": []}),
    ("model", {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]], "dropout": 0.5}),
    ("decoder", {"type": "Sequence", "decoders": []}),
    ("added_tokens", []),
)


class Tokenizers(BundleCopy):
    """Changes the tokenizer: edits, whole parts that crash, hang or mislead, and bytes."""

    name = "tokenizers"
    share = 1.5
    slice_cases = 150

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        case: Case = {"rehash": True, "calls": ["load"]}
        choice = random.random()
        if choice < 0.5:
            case["json"] = {"tokenizer.json": edits(random, parsed("tokenizer.json"))}
        elif choice < 0.85:
            part, value = random.choice(_PARTS)
            changes = [["set", [part], value]]
            if random.random() < 0.3:
                further = edits(random, value, 1)
                changes += [[name, [part, *path], content] for name, path, content in further]
            case["json"] = {"tokenizer.json": changes}
        elif choice < 0.93:
            # ids that the model does not have
            step = random.choice((1, -1, 10**6, 2**31, 10**18))
            vocabulary = parsed("tokenizer.json")["model"]["vocab"]
            token = random.choice(sorted(vocabulary))
            changes = [["set", ["model", "vocab", token], vocabulary[token] + step]]
            case["json"] = {"tokenizer.json": changes}
        else:
            data = (TINY_BUNDLE / "tokenizer.json").read_bytes()[:3000]
            case["bytes"] = [["tokenizer.json", damaged(random, data, b"{}")]]
        return case
