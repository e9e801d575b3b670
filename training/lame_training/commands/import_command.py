"""`lame-train import`: writes a published embedder as a checkpoint."""

from __future__ import annotations

import argparse
from typing import Any

from lame_runtime.cli.grammar import add_command, path
from lame_runtime.errors import UsageError

from lame_training.published.forms.published_forms import FORMS

EXAMPLE = """
lame-train import Qwen3-VL-Embedding-2B runs/checkpoint
lame-train import Qwen3-VL-Embedding-2B runs/checkpoint --max-length 2048
lame-train import VLM2Vec-V2.0 runs/checkpoint --form vlm2vec-v2
lame-train import LaME-2B runs/checkpoint --form lame-2b
"""
OFFICIAL = "lame-2b"
"""The form of the checkpoint that LaME's authors published."""


def add(commands: Any) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "import",
        "write a published embedder, such as a Sentence Transformers folder, as a checkpoint",
        _import,
        EXAMPLE,
    )
    parser.add_argument("folder", type=path, help="the published folder")
    parser.add_argument("checkpoint", type=path, help="folder to write; it must not exist")
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="longest input in tokens (default: that of the folder, at most 8192)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="pixels of a picture after resizing (default: that of the folder)",
    )
    parser.add_argument(
        "--form",
        metavar="NAME",
        help="form of a folder that is not one of Sentence Transformers: "
        + ", ".join([*FORMS, OFFICIAL]),
    )


def _import(options: argparse.Namespace) -> int:
    # deferred: PyTorch and transformers take seconds to import
    from lame_training.published.folder_kind import folder_kind
    from lame_training.published.import_embedder import ImportLimits, import_embedder

    limits = ImportLimits(options.max_length, options.max_pixels)
    if options.form == OFFICIAL:
        from lame_training.published.official.import_official import import_official

        import_official(options.folder, options.checkpoint, limits)
        print(f"wrote {options.checkpoint}; compare its vectors with the authors' code before use")
        return 0
    if folder_kind(options.folder, options.form) == "checkpoint":
        raise UsageError(
            f"{options.folder}: is not a Sentence Transformers folder; there is nothing to import"
        )
    contract = import_embedder(options.folder, options.checkpoint, limits, options.form)
    roles = ", ".join(sorted(contract.prompt.roles))
    print(
        f"wrote {options.checkpoint}: {contract.family}, vectors of {contract.dim} values, "
        f"up to {contract.tokens.max_length:,} tokens, roles {roles}"
    )
    return 0
