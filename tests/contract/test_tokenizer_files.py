"""Tests that a `tokenizer.json` of unknown origin can neither end the process nor mislead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lame_runtime import BundleError, InputError
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.files.tokenizer_json import (
    MAX_ADDED_TOKENS,
    MAX_TOKENIZER_BYTES,
    MAX_TOKENS,
    PATTERNS,
)
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)

Edit = Callable[[dict[str, Any]], object]
Load = Callable[..., TextTokenizer]
TEXTS = ("It's 15\n\n  <|im_end|>", "数字 🙂 é é", "", " \t\n x", "<|image_pad|> 2024")


@pytest.fixture
def edited(tokenizer_file: Path, tmp_path: Path) -> Load:
    """Loads the test tokenizer after an edit of its JSON."""

    def load(edit: Edit) -> TextTokenizer:
        content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
        edit(content)
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(content))
        return TextTokenizer(path)

    return load


def normalizer(**fields: Any) -> Edit:
    return lambda content: content.update(normalizer=fields)


def pre_tokenizer(**fields: Any) -> Edit:
    return lambda content: content.update(pre_tokenizer=fields)


def model(**fields: Any) -> Edit:
    return lambda content: content["model"].update(fields)


def split(expression: str, **fields: Any) -> dict[str, Any]:
    regex = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
    return {**regex, "invert": False, **fields}


GROWTH = {"type": "Replace", "pattern": {"String": "f"}, "content": "f" * 1000}
KNOWN = min(PATTERNS)
EDITS: dict[str, tuple[Edit, str]] = {
    "a table of garbage": (
        normalizer(type="Precompiled", precompiled_charsmap="////fw=="),
        "normalizer.type is Precompiled",
    ),
    "growing texts": (
        normalizer(type="Sequence", normalizers=[GROWTH] * 4),
        r"normalizer.normalizers\[0\].type is Replace",
    ),
    "nested sequences": (
        normalizer(type="Sequence", normalizers=[{"type": "Sequence", "normalizers": []}]),
        "type is Sequence",
    ),
    "many steps": (normalizer(type="Sequence", normalizers=[{"type": "NFC"}] * 99), "99 steps"),
    "a prefix": (normalizer(type="Prepend", prepend="x" * 1000), "type is Prepend"),
    "a list as type": (normalizer(type=["NFC"]), "normalizer.type is"),
    "a normalizer that is a text": (lambda content: content.update(normalizer="NFC"), "an object"),
    "backtracking": (pre_tokenizer(**split("(x+x+)+y")), "not one of the known regular"),
    "a known expression and more": (pre_tokenizer(**split(KNOWN + "|(a*)*b")), "known regular"),
    "an expression as a text": (pre_tokenizer(**split("x", pattern={"String": "x"})), "known"),
    "another behavior": (pre_tokenizer(**split(KNOWN, behavior="Burn")), "behavior is Burn"),
    "chunks of length 0": (pre_tokenizer(type="FixedLength", length=0), "is FixedLength"),
    "a flag that is a number": (pre_tokenizer(type="ByteLevel", use_regex=1), "use_regex is 1"),
    "another decoder": (lambda content: content.update(decoder={"type": "WordPiece"}), "decoder"),
    "another model": (model(type="Unigram"), "model.type is Unigram"),
    "a dropout": (model(dropout=0.5), "model.dropout is 0.5"),
    "a prefix of words": (model(continuing_subword_prefix="##"), "continuing_subword_prefix"),
    "no vocabulary": (model(vocab=[]), "model.vocab must be an object"),
    "a negative id": (model(vocab={"a": -1}, merges=[]), "holds an id"),
    "an id that is a text": (model(vocab={"a": "1"}, merges=[]), "holds an id"),
    "an id of 64 bits": (model(vocab={"a": 2**63}, merges=[]), "holds an id"),
    "a token of a megabyte": (model(vocab={"a" * 10**6: 1}, merges=[]), "1024 characters"),
    "an unknown token that is a list": (model(unk_token=[]), "unk_token is"),
    "a merge of three": (model(merges=["a b c"]), r"merges\[0\] is a b c"),
    "a merge of nothing known": (model(merges=[["Ġ", "数"]]), r"merges\[0\] is"),
    "a merge of lists": (model(merges=[[[], {}]]), r"merges\[0\] is"),
    "an added token without a text": (
        lambda content: content["added_tokens"][0].update(content=""),
        r"added_tokens\[0\].content",
    ),
    "an added token of another id": (
        lambda content: content["added_tokens"][0].update(id=250),
        "other ids than",
    ),
    "a lone surrogate": (
        lambda content: content["added_tokens"][0].update(content="\ud800"),
        "surrogates|not a readable",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_no_tokenizer_of_a_family_holds_is_refused(name: str, edited: Load) -> None:
    """The message is one line that names the field, and the library builds nothing of it."""
    edit, message = EDITS[name]
    with pytest.raises(BundleError, match=message):
        edited(edit)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff", b'{"model": NaN}', b"[" * 100_000, b'{"model": {"type": []}}'],
)
def test_what_is_no_tokenizer_is_refused(content: bytes, tmp_path: Path) -> None:
    """Anything may lie under the name `tokenizer.json`."""
    path = tmp_path / "tokenizer.json"
    with pytest.raises(BundleError, match=r"not a readable tokenizer\.json"):
        TextTokenizer(path, content=content)


def added_tokens(count: int) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        tokens, first = content["added_tokens"], len(content["model"]["vocab"])
        more = [
            {**tokens[0], "content": f"<{place}>", "id": first + place} for place in range(count)
        ]
        content["added_tokens"] = tokens + more

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (added_tokens(MAX_ADDED_TOKENS), "added_tokens has more than 65,536 entries"),
        (lambda content: content.update(filler="x" * MAX_TOKENIZER_BYTES), "is larger than 67,"),
        (model(vocab={f"{n}": n for n in range(MAX_TOKENS + 1)}), "model.vocab has 1,048,577 ent"),
    ],
)
def test_too_large_a_tokenizer_is_refused_before_it_is_built(
    edit: Edit, message: str, edited: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would read millions of tokens for half a minute."""
    built: list[str] = []
    monkeypatch.setattr(Tokenizer, "from_str", built.append)
    with pytest.raises(BundleError, match=message):
        edited(edit)
    assert built == []


def test_thousands_of_added_tokens_are_read(edited: Load) -> None:
    """Identifiers of items, which some models are trained with, are no hostile input."""
    assert edited(added_tokens(20_000)).encode("a")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"normalizer": null', "the key 'normalizer' occurs twice"),
        ('"padding": NaN', "NaN is not a number in JSON"),
    ],
)
def test_a_key_given_twice_is_refused(
    field: str, message: str, tokenizer_file: Path, tmp_path: Path
) -> None:
    """Readers take one value or the other; NaN is still refused, too."""
    text = tokenizer_file.read_text(encoding="utf-8")
    content = text.replace("{", "{" + field + ",", 1)
    with pytest.raises(BundleError, match=message):
        TextTokenizer(tmp_path / "tokenizer.json", content=content.encode())


def test_a_panic_of_the_library_is_translated(
    edited: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the list of patterns the library panics, which is no `Exception`."""
    monkeypatch.setattr("lame_runtime.files.tokenizer_json.PATTERNS", {"(x+x+)+y"})
    tokenizer = edited(pre_tokenizer(**split("(x+x+)+y")))
    with pytest.raises(InputError, match="the text cannot be tokenized"):
        tokenizer.encode("x" * 60)


def test_ctrl_c_is_no_panic(edited: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other classes that derive from `BaseException` are not caught."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lame_runtime.contract.tokens.read_tokenizer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edited(lambda content: None)


def qwen(file: Path, expression: str) -> Tokenizer:
    """Returns the test vocabulary with the parts of a published tokenizer of Qwen."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(4)
    return tokenizer


@pytest.mark.parametrize("expression", sorted(PATTERNS))
def test_published_tokenizers_give_the_ids_that_the_library_gives(
    expression: str, tokenizer_file: Path, tmp_path: Path
) -> None:
    """Checking and writing anew changes no id; padding and truncation of the file are dropped."""
    original = qwen(tokenizer_file, expression)
    path = tmp_path / "tokenizer.json"
    original.save(str(path))
    tokenizer = TextTokenizer(path)
    original.no_padding()
    original.no_truncation()
    original.encode_special_tokens = True
    for words in (*TEXTS, "<tool_call> 1"):
        ids = original.encode(words, add_special_tokens=False).ids
        assert tokenizer.encode(words) == ids
        assert tokenizer.decode(ids) == original.decode(ids, skip_special_tokens=True)
    assert tokenizer.size == original.get_vocab_size()


def test_the_expression_of_transformers_is_known() -> None:
    """The tokenizers that transformers makes for Qwen2 and Qwen3.5 are accepted."""
    from transformers.models.qwen2 import tokenization_qwen2
    from transformers.models.qwen3_5 import tokenization_qwen3_5

    assert tokenization_qwen2.PRETOKENIZE_REGEX in PATTERNS
    assert tokenization_qwen3_5.PRETOKENIZE_REGEX in PATTERNS


def test_merges_of_older_files_are_read(edited: Load, tokenizer_file: Path) -> None:
    """Older files hold a merge as one text instead of a pair."""
    expected = TextTokenizer(tokenizer_file)

    def older(content: dict[str, Any]) -> None:
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]

    tokenizer = edited(older)
    for words in TEXTS:
        assert tokenizer.encode(words) == expected.encode(words)


def test_the_size_covers_the_highest_id(edited: Load, tokenizer_file: Path) -> None:
    """Ids with gaps need more rows of an embedding table than there are tokens."""

    def spread(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        last = max(vocab, key=vocab.__getitem__)
        content["model"]["merges"] = []
        vocab[last] = 5000

    plain = Tokenizer.from_file(str(tokenizer_file))
    assert TextTokenizer(tokenizer_file).size == plain.get_vocab_size()
    assert edited(spread).size == 5001


def test_a_token_of_the_prompt_must_be_special(edited: Load) -> None:
    """A text that holds an ordinary token gets its id, so it could forge a picture."""

    def ordinary(content: dict[str, Any]) -> None:
        for token in content["added_tokens"]:
            token["special"] = token["content"] != "<|image_pad|>"

    tokenizer = edited(ordinary)
    assert tokenizer.special("<|video_pad|>") > 0
    with pytest.raises(BundleError, match=r"no token <\|image_pad\|> that is marked as special"):
        tokenizer.special("<|image_pad|>")


def test_plain_text_never_becomes_a_special_token(edited: Load) -> None:
    """A vocabulary whose merges make a special token of plain text is noticed when they do."""

    def forged(content: dict[str, Any]) -> None:
        # "a" as an ordinary token gets the id of pictures
        vocab = content["model"]["vocab"]
        vocab["a"], vocab["<|image_pad|>"] = vocab["<|image_pad|>"], vocab["a"]
        for token in content["added_tokens"]:
            if token["content"] == "<|image_pad|>":
                token.update(id=vocab["<|image_pad|>"])

    tokenizer = edited(forged)
    # the token itself got the other id, so this is what a text may be
    assert tokenizer.encode("a") != [tokenizer.special("<|image_pad|>")]

    def merged(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        vocab["xy"] = 999
        content["model"]["merges"] = [["x", "y"]]
        token = {"id": 999, "content": "xy", "special": True}
        content["added_tokens"].append(token)

    tokenizer = edited(merged)
    with pytest.raises(BundleError, match="makes a special token of plain text"):
        tokenizer.encode("xy")
