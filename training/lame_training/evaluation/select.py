"""Finds the suite and opens the model that an evaluation names.

The same suites run on a checkpoint and on the bundle that was exported from it.
"""

from __future__ import annotations

from pathlib import Path

from lame_runtime.encoder import Encoder
from lame_runtime.errors import StorageError, UsageError, shown
from lame_runtime.options import BackendName

from lame_training.evaluation.mmeb.mmeb_v2 import mmeb_v2
from lame_training.evaluation.mmeb.task_list import CONVENTIONS
from lame_training.evaluation.suites.digits_suite import digits
from lame_training.evaluation.suites.mrmr import mrmr
from lame_training.evaluation.suites.suite import Suite

SUITES = ("digits", "mmeb-v2", "mrmr")
"""Names of the suites, as `find_suite` accepts them."""


def find_suite(
    suite: str, data: Path, *, split: str = "eval", visdoc: str = CONVENTIONS[0]
) -> Suite:
    """Returns a suite by name.

    Args:
        suite: one of `SUITES`.
        data: root of the suite's data. Only "digits" reads it here, to list its tasks; the others
            are always complete and report tasks without files as missing.
        split: "eval" or "valid"; for "digits" only, ignored by the others.
        visdoc: convention for the page-level tasks, one of `task_list.CONVENTIONS`; for "mmeb-v2"
            only, ignored by the others.

    Raises:
        UsageError: there is no such suite or convention.
        StorageError: `data` is no folder, or holds none of the digits' tasks.
    """
    if suite not in SUITES:
        raise UsageError(f"`suite` is {suite!r}: use one of {', '.join(SUITES)}")
    if not data.is_dir():
        raise StorageError(f"{data}: no such folder; give the root of the suite's data as `data`")
    # Its tasks depend on how the data were made; those of the benchmarks are fixed lists.
    if suite == "digits":
        return digits(data, split)
    return mmeb_v2(visdoc) if suite == "mmeb-v2" else mrmr()


def open_encoder(model: Path, graph: str | None = None, backend: BackendName = "auto") -> Encoder:
    """Opens a bundle on ONNX Runtime or TensorRT, or a checkpoint on PyTorch.

    Args:
        model: the folder of a bundle (it has a `manifest.json`) or of a checkpoint.
        graph: name of one of a bundle's graphs; None takes the default of the backend that runs.
            A checkpoint has no graphs, so it must be None.
        backend: backend of a bundle, as `Encoder.load` takes it; "auto" for a checkpoint, which
            always runs on PyTorch.

    Raises:
        BundleError: `model` is neither, or a bundle without this graph.
        UsageError: `graph` or `backend` is given for a checkpoint.
        BackendError: no backend can run the bundle.
    """
    # Only bundles have a manifest. What else may be wrong with the folder is for the loader to say.
    if (model / "manifest.json").is_file():
        return Encoder.load(model, graph=graph, backend=backend)
    if graph is not None:
        raise UsageError(
            f"`graph` is {shown(repr(graph))}, but {model} is not a bundle; "
            "leave it out for a checkpoint"
        )
    if backend != "auto":
        raise UsageError(
            f"`backend` is {shown(repr(backend))}, but {model} is not a bundle; "
            "leave it out for a checkpoint"
        )
    # Deferred: PyTorch takes seconds to import, and a bundle runs without it.
    from lame_training.model.torch_backend import load_encoder

    return load_encoder(model)
