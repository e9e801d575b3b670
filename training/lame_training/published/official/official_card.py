"""The model card of LaME-2B: what it states, and what it leaves open."""

from __future__ import annotations

from dataclasses import dataclass

from lame_training.contract_from.budget import Budget

FORM = "lame-2b"
"""The name by which `lame-train import --form` reads such a folder."""


@dataclass(frozen=True)
class OfficialCard:
    """Holds what a model card states of a checkpoint of LaME's authors.

    Attributes:
        family: the backbone's family.
        n_reason: K.
        dim: P, the "projection dim".
        decoder_width: width of the latent decoder, which the card names.
        source: the page.
        date: the day on which it was read.
    """

    family: str
    n_reason: int
    dim: int
    decoder_width: int
    source: str
    date: str


LAME_2B = OfficialCard(
    family="qwen2_vl",
    n_reason=8,
    dim=3_584,
    # Qwen3-0.6B
    decoder_width=1_024,
    source="huggingface.co/leafyseay/LaME-2B, model card",
    date="2026-11-28",
)
BUDGET = Budget(max_length=8_192, max_pixels=1_280 * 28 * 28, max_frames=64)
"""Limits of one input, which the card does not state; those of our recipe for this model."""
ASSUMED = (
    "the prompt is what the chat template prints for a user's turn, without instructions",
    "the reason tokens and then [EMBED] stand where the assistant's answer would begin",
    "latent rows are input embeddings, and [EMBED] attends to everything before it",
    "the vector is the projected state at [EMBED], after the final norm, with unit length",
    "pictures and videos have the limits of the folder's files, and of our recipe if lower",
)
"""Steps that no tensor shows and the card does not state, done as in our own models."""
