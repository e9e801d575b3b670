"""The tokenizer of a model trained from scratch: byte-level BPE made from the training rows, with Qwen2's special tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.atomic import atomic_text
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END = "<|endoftext|>"
CHAT_END = "<|im_end|>"
SPECIAL_TOKENS = (
    END,
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path) -> None:
    """Writes `tokenizer.json` at `path`; the same texts give the same bytes.

    All 256 bytes are in the vocabulary, so no text is ever unknown.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    atomic_text(path, tokenizer.to_str(pretty=True))
