"""Trains the tokenizer of a model that is trained from scratch.

It is a byte-level BPE with Qwen2's special tokens, trained on the texts of the training rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from lame_runtime.files.atomic import atomic_text
from lame_runtime.files.tokenizer_json import MAX_TOKEN_LENGTH
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END = "<|endoftext|>"
"""The token that ends a text; it also pads."""
CHAT_END = "<|im_end|>"
"""The token that ends a turn."""
SPECIAL_TOKENS = (
    END,
    "<|im_start|>",
    CHAT_END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""In the order of their ids, which begin at 0."""


LONGEST_TEXT = 10_000
"""Number of characters of a text that the tokenizer is trained on."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path) -> None:
    """Trains a tokenizer and writes it as `tokenizer.json`; the same texts give the same bytes.

    Args:
        texts: the texts to train on; of a long one, the beginning.
        vocab_size: upper bound of the number of tokens, special ones included.
        path: the file to write.

    Raises:
        StorageError: the file cannot be written.
    """
    # NFC and bytes, as in Qwen2's tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        # all 256 bytes, so that no text has an unknown token
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        # a line of a thousand dashes is one word, and would become one token that is not read back
        max_token_length=MAX_TOKEN_LENGTH,
    )
    # a word of a million letters would take a minute: every merge walks through all of it
    tokenizer.train_from_iterator((text[:LONGEST_TEXT] for text in texts), trainer)
    atomic_text(path, tokenizer.to_str(pretty=True))


def trained_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """Returns the `tokenizer.json` that `train_tokenizer` writes; raises `StorageError`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        train_tokenizer(texts, vocab_size, file)
        return file.read_bytes()
