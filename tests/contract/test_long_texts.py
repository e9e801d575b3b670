"""Tests that long texts are measured before all of them is tokenized, with the same ids."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from lame_runtime import Input, InputError
from lame_runtime.contract import Preparer
from lame_runtime.contract.prompts import layout_runs
from lame_runtime.contract.texts import pieces as module
from lame_runtime.contract.texts.pieces import can_be_cut, pieces
from lame_runtime.contract.tokens import TextTokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

QWEN = next(words for words in sorted(module._WORDS) if "{1,3}" not in words)  # noqa: SLF001
ALPHABET = [
    *"abcXYZ éüß ñ 0123 ''s 'll .,;:!?()[]\"“”…—_-+=/\\<>| \t\n\r\n \u3000\u00a0\u2028\u200b\u180e",
    *"你好世界、。，！ あいアイ 한국어 привет мир ελ עבר हिन्दी ไทย",
    *"🐈🐕👩‍👩‍👧 e\u0301 a\u0308\u0323 \u1100\u1161",
    " ", " ", " ", "\n", "<|image_pad|>", "<think>", "word ", "  ", "\u0338", "\x1c", "\x85",
]  # fmt: skip


def qwen_like(folder: Path, *added: AddedToken) -> TextTokenizer:
    """Returns a tokenizer that splits words as Qwen's does, trained on a few texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|image_pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    tokenizer.train_from_iterator(["".join(rng.choices(ALPHABET, k=2000))] * 3, trainer)
    tokenizer.add_tokens([AddedToken("<think>"), *added])
    tokenizer.save(str(folder / "tokenizer.json"))
    return TextTokenizer(folder / "tokenizer.json")


@pytest.fixture(params=["Qwen's words", "GPT-2's words"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path, preparer: Preparer) -> TextTokenizer:
    return qwen_like(tmp_path) if request.param == "Qwen's words" else preparer.tokenizer


def random_texts(count: int) -> list[str]:
    rng = random.Random(1)
    return ["".join(rng.choices(ALPHABET, k=rng.randrange(1, 400))) for _ in range(count)]


def test_pieces_have_the_ids_of_the_whole_text(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids of all pieces together are those of the text, in every script and with every space."""
    monkeypatch.setattr(module, "PIECE", 5)
    monkeypatch.setattr("lame_runtime.contract.tokens.PIECE", 5)
    cuts = 0
    for text in random_texts(400):
        parts = list(pieces(text, can_be_cut=True))
        assert "".join(parts) == text
        cuts += len(parts) - 1
        assert tokenizer.encode_start(text, 10**6) == (tokenizer.encode(text), True), ascii(text)
        start, complete = tokenizer.encode_start(text, 10)
        assert start == tokenizer.encode(text)[: len(start)]
        assert complete or len(start) > 10
    assert cuts > 4000


def test_other_cuts_would_change_ids(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: cut anywhere, the same texts have other ids."""
    monkeypatch.setattr(module, "PIECE", 5)
    monkeypatch.setattr(module, "_CUT", module.re.compile(r"[\s\S]{2}"))
    different = [
        text
        for text in random_texts(50)
        if [i for part in pieces(text, can_be_cut=True) for i in tokenizer.encode(part)]
        != tokenizer.encode(text)
    ]
    assert len(different) > 10


def test_only_known_tokenizers_are_cut(tmp_path: Path, preparer: Preparer) -> None:
    """Another regular expression, normalizer or added token may join what a cut would part."""
    assert can_be_cut(preparer.tokenizer._tokenizer)  # noqa: SLF001
    known = qwen_like(tmp_path)._tokenizer  # noqa: SLF001
    assert can_be_cut(known)
    changes = {
        "normalizer": normalizers.NFKC(),
        "pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True),
    }
    for name, component in changes.items():
        other = Tokenizer.from_str(known.to_str())
        setattr(other, name, component)
        assert not can_be_cut(other), name
    for token in (AddedToken("two words"), AddedToken("<a>", rstrip=True)):
        other = Tokenizer.from_str(known.to_str())
        other.add_tokens([token])
        assert not can_be_cut(other), token


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("unit", ["word ", "你好。", "a\n", "🐈 ", "1 "])
def test_a_long_text_is_tokenized_no_further_than_needed(
    unit: str, truncate: bool, preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million characters cost what some ten thousand cost; truncated ids are those of a start.

    Refused texts are said to have at least so many tokens.
    """
    encode, lengths = TextTokenizer.encode, []

    def counted(self: TextTokenizer, text: str, *, offset: int = 0) -> list[int]:
        lengths.append(len(text))
        return encode(self, text, offset=offset)

    monkeypatch.setattr(TextTokenizer, "encode", counted)
    long, short = Input(text=unit * (10**7 // len(unit))), Input(text=unit * 20_000)
    if truncate:
        assert preparer(long, truncate=True).ids.tolist() == (
            preparer(short, truncate=True).ids.tolist()
        )
    else:
        with pytest.raises(InputError, match=r"at least \d+ tokens long, the limit is 2048"):
            preparer(long)
    assert sum(lengths) < 3 * module.PIECE


@pytest.mark.parametrize("text", ["a" * 10**7, "🐈" * 10**6, "a" + " " * 10**6 + "b"], ids=ascii)
def test_a_stretch_that_cannot_be_cut_is_bounded(text: str, preparer: Preparer) -> None:
    """One word of ten million letters would take gigabytes, also to keep its beginning."""
    for truncate in (False, True):
        with pytest.raises(InputError, match="262,144 or more without a space") as caught:
            preparer(Input(text=text), truncate=truncate)
        assert len(str(caught.value)) < 200


def test_all_texts_of_an_input_are_bounded_before_they_are_copied(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instruction and every part count."""
    monkeypatch.setattr(module, "MAX_CHARACTERS", 10)
    assert len(preparer(Input(text="0123456789")).ids)
    for item in (
        Input(text="0123456789a"),
        Input(text="a", instruction="0123456789"),
        Input(content=("01234", "56789", "a")),
    ):
        with pytest.raises(InputError, match="have 11 characters, the limit is 10"):
            preparer(item, truncate=True)


def test_an_instruction_counts_as_text_that_stays(preparer: Preparer) -> None:
    """A long instruction cannot be cut, whatever its length."""
    for words in (3000, 10**6):
        with pytest.raises(InputError, match="or a shorter instruction"):
            preparer(Input(text="a", instruction="word " * words), truncate=True)


def test_many_parts_are_joined_once(preparer: Preparer) -> None:
    """Joining a part at a time would copy the text as often as there are parts."""
    parts = ["ab "] * 50_000
    runs, first_closing = layout_runs(preparer.contract.prompt, parts, "Find it.")
    assert len(runs[:first_closing]) == 2
    last = runs[first_closing - 1]
    assert last.text == "user\nFind it.\n" + "ab " * 50_000
    assert last.fixed == len(last.text) - 3


def test_a_lone_surrogate_is_named_by_its_place(preparer: Preparer) -> None:
    """The place is that in the whole text, also if the text is cut."""
    text = "word " * 30_000 + "\ud800"
    monkey = Input(text=text)
    tokens = preparer.contract.tokens
    assert len(preparer(monkey, truncate=True).ids) == tokens.max_length + tokens.n_reason + 1
    with pytest.raises(InputError, match=rf"character {len(text) - 1}\)"):
        preparer.tokenizer.encode_start(text, 10**6)
