"""The contract: everything that training and deployment must agree on to the byte.

It is written once. Training imports it, the exporter copies `contract.json` unchanged, and the
runtime reads it. A processor that is written twice drifts.

Pure functions of `str`, PIL pictures and NumPy arrays:

    prompts      one input (instruction, texts, pictures, videos) → the runs of its prompt
    texts        limits for texts, and pieces of long ones that are tokenized one by one
    positions    token ids → M-RoPE positions
    tower        patch grid → rotary positions, attention windows, interpolated position embeddings
    batch        prepared inputs → the arrays of one batch
    vectors      graph output → prefix of unit length, in fewer bits
    strict_json  parsed JSON → frozen dataclasses, strictly by their type hints and ranges
    rules        the dataclasses behind contract.json; `Contract.load` alone reads a file
    fields       those of them that have a module of their own

Modules that read files as well:

    tokens       tokenizer.json, at construction; then text → ids, with truncation, which is pure
    media        pictures, videos and pages of PDFs, if they are given as paths; see its docstring
    preparer     all of it together, an input → a `Prepared` one: `Preparer.load` reads two files of
                 a bundle, and a call reads the pictures and videos that its input names

Nothing here writes a file or uses a network.
"""

from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.contract.rules import (
    Contract,
    ImageRules,
    Limits,
    PromptLayout,
    TokenRules,
    TowerRules,
    VideoRules,
)

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
