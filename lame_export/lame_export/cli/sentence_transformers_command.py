"""`lame-export sentence-transformers`: writes a checkpoint for Sentence Transformers."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli.grammar import add_command, path

EXAMPLE = """
lame-export sentence-transformers checkpoint folder
"""


def add(commands: Any) -> None:
    """Adds the command `sentence-transformers` to the program."""
    parser = add_command(
        commands,
        "sentence-transformers",
        "write a checkpoint as a folder that Sentence Transformers loads",
        _write,
        EXAMPLE,
    )
    parser.add_argument("checkpoint", type=path, help="the checkpoint of a trained model")
    parser.add_argument("folder", type=path, help="folder to write; it must not exist")


def _write(options: argparse.Namespace) -> int:
    # deferred, so that `--help` works without PyTorch
    from lame_training.published.writing.write_folder import write_sentence_transformers

    write_sentence_transformers(options.checkpoint, options.folder)
    print(f"wrote {options.folder}: load it with SentenceTransformer({str(options.folder)!r})")
    return 0
