"""Gives a tokenizer and a table of embeddings the latent tokens of a LaME model."""

from __future__ import annotations

import json
import string

import torch
from torch import Tensor


def latent_names(n_reason: int) -> list[str]:
    """Returns the names of the tokens [REASON]_0 to [REASON]_{K-1} and [EMBED]."""
    return [*(f"<|reason_{_letters(number)}|>" for number in range(n_reason)), "<|embed|>"]


def with_latent_tokens(tokenizer: bytes, size: int, names: list[str]) -> str:
    """Returns a `tokenizer.json` with further special tokens, numbered from `size` on.

    Args:
        tokenizer: the content of the file.
        size: one more than its highest id.
        names: the tokens.
    """
    raw = json.loads(tokenizer.decode("utf-8-sig"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for number, name in enumerate(names):
        raw["added_tokens"].append({"id": size + number, "content": name, **flags, "special": True})
    return json.dumps(raw, ensure_ascii=False)


def widened_table(table_VD: Tensor, latents: Tensor, size: int) -> Tensor:
    """Returns a table of embeddings with the latent rows from row `size` on.

    Published tables have more rows than the tokenizer has ids; no text can produce those.

    Args:
        table_VD: (V, D).
        latents: (K + 1, D).
        size: the id of the first latent token.

    Returns:
        (max(V, size + K + 1), D) of the table's type.
    """
    rows = max(len(table_VD), size + len(latents))
    wider = torch.zeros(rows, table_VD.shape[1], dtype=table_VD.dtype)
    wider[: len(table_VD)] = table_VD
    wider[size : size + len(latents)] = latents.to(table_VD.dtype)
    return wider


def _letters(number: int) -> str:
    """Returns a, b, …, z, ba, bb, …: special tokens of this project hold no digits."""
    name = ""
    while True:
        number, place = divmod(number, len(string.ascii_lowercase))
        name = string.ascii_lowercase[place] + name
        if not number:
            return name
