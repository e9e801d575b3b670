"""Settings that would give other vectors than the folder's own pipeline are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from folder_edits import POOLING, SETTINGS, Edit, copied, fields, refused, text

CASES: dict[str, tuple[Edit, str]] = {
    "attention to what comes later": (
        fields("config.json", is_causal=False),
        "attends in both directions",
    ),
    "the same by another name": (
        fields("config.json", use_bidirectional_attention=True),
        "attends in both directions",
    ),
    "a special token in a prompt": (
        fields(SETTINGS, prompts={"query": "A <|endoftext|> B", "document": ""}),
        r"<\|endoftext\|>",
    ),
    "no width of the pooling": (text(POOLING, {}), "1_Pooling"),
    "code of the model": (
        fields("config.json", auto_map={"AutoModel": "own.Model"}),
        r"names code of the folder's own \(auto_map\)",
    ),
    "code of the processor": (
        fields("processor_config.json", auto_map={"AutoProcessor": "own.Processor"}),
        r"names code of the folder's own \(auto_map\)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_other_vectors_are_refused(name: str, good_folder: Path, tmp_path: Path) -> None:
    """In one line, and without a checkpoint."""
    edit, pattern = CASES[name]
    folder = copied(good_folder, tmp_path / "folder")
    edit(folder)
    refused(folder, pattern)
