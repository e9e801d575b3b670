"""The contract: everything training and deployment must agree on to the byte.

Pure functions on `str`, PIL pictures and NumPy arrays, written once. Training imports them, the exporter
copies `contract.json` unchanged, the runtime reads it.

    prompts     one input (instruction, texts, pictures, videos) → the runs of the prompt
    tokens      runs → token ids, with truncation that keeps the closing tokens and the latent ids
    images      picture → RGB → resized; frames → patches
    video       file or frames → sampled, resized frames and their times
    pages       page of a PDF → picture
    tower       patch grid → rotary positions, attention windows, interpolated position embeddings
    positions   token ids → M-RoPE positions
    vectors     truncation of a vector to a prefix, re-normalisation
    manifest    the bundle's table of contents and its hashes
    rules       the dataclasses behind contract.json
    preparer    all of it together: an input → a `Prepared` one
"""

from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.contract.rules import Contract, ImageRules, Limits, PromptLayout, TokenRules, TowerRules, VideoRules

__all__ = [
    "Contract",
    "ImageRules",
    "Input",
    "Limits",
    "Prepared",
    "Preparer",
    "PromptLayout",
    "TokenRules",
    "TowerRules",
    "VideoRules",
]
