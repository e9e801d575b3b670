"""Settings that would give other vectors than the folder's own pipeline are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from folder_edits import POOLING, SETTINGS, Edit, fields, refused_case, text

CASES: dict[str, tuple[Edit, str]] = {
    "attention to what comes later": (
        fields("config.json", is_causal=False),
        r"is_causal is False; expected True",
    ),
    "the same by another name": (
        fields("config.json", use_bidirectional_attention=True),
        "use_bidirectional_attention is True; expected False",
    ),
    "a special token in a prompt": (
        fields(SETTINGS, prompts={"query": "A <|endoftext|> B", "document": ""}),
        r"<\|endoftext\|>",
    ),
    "no width of the pooling": (text(POOLING, {}), "1_Pooling"),
    "code of the model": (
        fields("config.json", auto_map={"AutoModel": "own.Model"}),
        r"refers to custom code \(auto_map\)",
    ),
    "code of the processor": (
        fields("processor_config.json", auto_map={"AutoProcessor": "own.Processor"}),
        r"refers to custom code \(auto_map\)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_other_vectors_are_refused(name: str, good_folder: Path, tmp_path: Path) -> None:
    """In one line, and without a checkpoint."""
    refused_case(CASES[name], good_folder, tmp_path)
