"""hit@1 of a checkpoint or a bundle on MMEB-style evaluation rows."""

from __future__ import annotations

from pathlib import Path

from lame_runtime.encoder import Encoder
from lame_runtime.retrieval import TaskResult, embed_rows, evaluate, read_rows, tasks


def open_encoder(model: Path) -> Encoder:
    """A checkpoint runs on PyTorch, a bundle on ONNX Runtime; raises `BundleError` for anything else."""
    if (model / "manifest.json").is_file():
        return Encoder.load(model)
    from lame_training.torch_backend import load_encoder

    return load_encoder(model)


def evaluate_model(encoder: Encoder, data: Path, split: str = "eval", batch_size: int = 64) -> list[TaskResult]:
    """Every task of `DATA/SPLIT/`, each distinct input embedded once."""
    rows = {task: read_rows(data, task, split) for task in tasks(data, split)}
    return evaluate(rows, embed_rows(lambda items, role: encoder.encode(items, role=role, batch_size=batch_size), rows))
