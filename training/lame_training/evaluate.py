"""Which model and which suite an evaluation means: the same suite runs on a checkpoint and on an exported bundle."""

from __future__ import annotations

from pathlib import Path

from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError

from lame_training.suites.base import Suite
from lame_training.suites.digits import digits
from lame_training.suites.mmeb_tasks import CONVENTIONS
from lame_training.suites.mmeb_v2 import mmeb_v2
from lame_training.suites.mrmr import mrmr

SUITES = ("digits", "mmeb-v2", "mrmr")


def find_suite(name: str, data: Path, *, split: str = "eval", visdoc: str = CONVENTIONS[0]) -> Suite:
    """One of `SUITES`.

    Args:
        name: which.
        data: its root.
        split: of the digits.
        visdoc: MMEB-V2's convention for the page-level tasks.

    Raises:
        InputError: the root is no folder, or holds none of the digits' tasks.
    """
    if not data.is_dir():
        raise InputError(f"{data}: no such folder; give the root of the suite's data with --data")
    if name == "digits":
        return digits(data, split)
    return mmeb_v2(visdoc) if name == "mmeb-v2" else mrmr()


def open_encoder(model: Path, graph: str | None = None) -> Encoder:
    """A checkpoint runs on PyTorch, a bundle on ONNX Runtime.

    Raises:
        BundleError: it is neither.
        InputError: a graph is asked of a checkpoint, or of a bundle that lacks it.
    """
    if (model / "manifest.json").is_file():
        return Encoder.load(model, graph=graph)
    if graph is not None:
        raise InputError(f"--graph {graph}: {model} is no bundle; leave --graph out for a checkpoint")
    from lame_training.torch_backend import load_encoder

    return load_encoder(model)
