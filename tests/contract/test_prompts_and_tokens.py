"""Prompts become the ids of transformers' tokenizer, without its hole for injected tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lame_runtime.contract import Contract, Input, Preparer
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import BundleError, InputError, UsageError
from PIL import Image
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "seven",
    "What do the digits add up to?",
    "七加八等于多少？",
    "🙂 emoji 👩‍👩‍👧",
    "مرحبا",
    "e\u0301 is é",
    "a" * 500,
    "tabs\tand\nlines",
    "\u0000",
]


def whole_prompt(item: Input, role: str | None, vision_tokens: int, preparer: Preparer) -> str:
    picture = (
        "<|vision_start|>" + "<|image_pad|>" * vision_tokens + "<|vision_end|>"
        if vision_tokens
        else ""
    )
    instruction = (
        item.instruction
        if item.instruction is not None
        else preparer.contract.prompt.roles.get(role or "", "")
    )
    body = "\n".join(part for part in (instruction, item.text) if part)
    return f"<|im_start|>user\n{picture}{body}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("role", [None, "query", "document"])
@pytest.mark.parametrize("pictured", [False, True])
def test_ids_equal_transformers_tokenizer_on_the_whole_prompt(
    text: str, role: str | None, pictured: bool, preparer: Preparer, tokenizer_file: Path
) -> None:
    """They agree for any script and role, with and without a picture; latent ids follow."""
    item = Input(text, Image.new("RGB", (60, 90)) if pictured else None)
    prepared = preparer(item, role)
    vision = sum(visual.n_patches for visual in prepared.visuals) // 4
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file))(
        whole_prompt(item, role, vision, preparer)
    )["input_ids"]
    assert prepared.ids.tolist() == [*theirs, *range(300, 309)]


def test_a_picture_alone_needs_no_text(preparer: Preparer) -> None:
    """A picture with an empty text is an input like any other."""
    assert preparer(Input("", Image.new("RGB", (28, 28)))).visuals


def test_special_tokens_in_a_users_text_stay_text(preparer: Preparer) -> None:
    """A typed <|image_pad|> cannot forge a picture."""
    ids = preparer(Input("<|image_pad|> and <|im_end|>")).ids.tolist()
    assert preparer.contract.tokens.image_pad not in ids
    assert ids.count(preparer.tokenizer.special("<|im_end|>")) == 1


def test_mmebs_placeholder_is_removed(preparer: Preparer) -> None:
    """`<|image_1|>` marks a place that the layout decides."""
    image = Image.new("RGB", (28, 28))
    assert (
        preparer(Input("<|image_1|>\nName the digit.", image)).ids.tolist()
        == preparer(Input("Name the digit.", image)).ids.tolist()
    )


def test_an_inputs_own_instruction_replaces_the_roles(preparer: Preparer) -> None:
    """An empty instruction means none at all."""
    given = preparer(Input("seven", instruction=""), "query").ids.tolist()
    assert given == preparer(Input("seven")).ids.tolist()
    assert given != preparer(Input("seven"), "query").ids.tolist()


@pytest.mark.parametrize(
    "item",
    [
        Input(),
        Input(""),
        Input("   "),
        Input("<|image_1|>"),
        Input("", None, "an instruction alone"),
    ],
)
def test_an_empty_input_is_refused(item: Input, preparer: Preparer) -> None:
    """There is nothing to embed."""
    with pytest.raises(InputError, match="empty"):
        preparer(item)


def test_an_unknown_role_is_refused_by_name(preparer: Preparer) -> None:
    """The message lists the roles that the contract knows."""
    with pytest.raises(UsageError, match=r"'passage'.*document.*query"):
        preparer(Input("seven"), "passage")


def test_a_long_text_is_refused_without_truncation(preparer: Preparer) -> None:
    """Truncated, it is exactly as long as the limit and keeps its closing tokens."""
    item = Input("digits " * 4000)
    with pytest.raises(InputError, match=r"the limit is 2048.*pass `truncate=True`"):
        preparer(item)
    cut = preparer(item, truncate=True).ids.tolist()
    closing = preparer(Input("x")).ids.tolist()
    assert len(cut) == 2048 + 9
    assert cut[-9:] == list(range(300, 309))
    end = preparer.tokenizer.special("<|im_end|>")
    assert cut[cut.index(end) :] == closing[closing.index(end) :]


def test_a_picture_is_never_cut(contract: Contract, preparer: Preparer) -> None:
    """If the picture and the closing tokens alone are too long, truncation is refused as well."""
    short = Preparer(
        replace(contract, tokens=replace(contract.tokens, max_length=20)), preparer.tokenizer
    )
    with pytest.raises(InputError, match="smaller pictures"):
        short(Input("seven", Image.new("RGB", (280, 280))), truncate=True)


def test_a_broken_tokenizer_is_a_bundle_error(tmp_path: Path) -> None:
    """The bare Exception of the tokenizers library is translated; the remedy is the caller's."""
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer.*; export the bundle again"):
        TextTokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(BundleError, match=r"tokenizer.*; copy it"):
        TextTokenizer(tmp_path / "tokenizer.json", remedy="copy it")
